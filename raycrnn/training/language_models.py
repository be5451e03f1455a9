"""The language model of a run. Importing it does not import torch."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from raycrnn.config import Configuration
from raycrnn.config.decoding import LABELS
from raycrnn.config.group import AUTO
from raycrnn.ingest.training_data import TrainingData
from raycrnn.language import kneser_ney, model_files
from raycrnn.language.automaton import describe_unknown, unknown_units
from raycrnn.language.ngram_model import NgramModel
from raycrnn.language.order import DEFAULT_ORDER

if TYPE_CHECKING:
    from ray import ObjectRef

    from raycrnn.training.job import TrainingJob

logger = logging.getLogger(__name__)


def put(configuration: Configuration, data: TrainingData) -> "ObjectRef | None":
    """Put the language model of `decoding.language_model` into the object store, for the worker that writes models.

    Args:
        configuration: The run's configuration.
        data: The training data, from whose labels the model is estimated if the setting is `labels`.

    Returns:
        The reference of an `NgramModel`; None if there is none, or none before the end of training.

    Raises:
        UsageError: There is no such file, or the model has no unit of the alphabet.
        RaycrnnError: The file is not a language model, or is damaged.
    """
    import ray

    location = configuration.decoding.language_model
    if location in (None, AUTO):
        return None
    if location == LABELS:
        model = of_labels(data)
    else:
        model = model_files.read(location)
        if lacking := unknown_units(model, data.alphabet.units):
            logger.warning(f"{location}: {describe_unknown(lacking)}")
    logger.info(f"language model of {location}: {len(model.key_S) - 1:,} n-grams of up to {model.order} units")
    return ray.put(model)


def of_labels(data: TrainingData, most_rows: int | None = None) -> NgramModel:
    """Return a language model of the labels of the training rows.

    Args:
        data: The training data.
        most_rows: If there are more rows, it is estimated from as many of them, at even distances.

    Raises:
        RaycrnnError: All labels are empty, or a unit is `<s>`, `</s>` or `<unk>`.
    """
    import ray

    codes = ray.get(data.train.table)["codes"]
    if most_rows is not None and len(codes) > most_rows:
        codes = codes.take(np.linspace(0, len(codes) - 1, most_rows).astype(int))
    # In the order in which the network reads the units.
    labels = [data.alphabet.decode(row) for row in codes.to_pylist()]
    return kneser_ney.estimate(labels, DEFAULT_ORDER, data.alphabet.units)


def get(job: "TrainingJob") -> NgramModel | None:
    """Return the language model of a run, if it has one."""
    import ray

    return ray.get(job.language_model) if job.language_model else None
