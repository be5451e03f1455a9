"""What the trials of a search start from: all from the same model, or all from random weights."""

import logging
from typing import Any

from raycrnn import config
from raycrnn.config import Configuration
from raycrnn.config.group import AUTO
from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.training import base_model, network_keys
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


def alike(configuration: Configuration, search: Search) -> Configuration:
    """Return the configuration in which `auto` stands for random weights, if the search varies keys of the network.

    All trials start alike, and a model has one network.
    """
    varied = {*network_keys.KEYS_OF_A_MODEL, "data.lookup_alphabet_file"} & search.search.keys()
    if configuration.training.initial_model == AUTO and varied:
        logger.info(f"all trials start from random weights, because the search varies {', '.join(sorted(varied))}")
        return config.completed(configuration, {"training.initial_model": None})
    return configuration


def as_before(configuration: Configuration, output: Directory) -> Configuration:
    """Return the configuration in which `auto` stands for what it stood for when the search started."""
    output.fetch("search.json")
    training = config.read_json_object(output.path / "search.json")["configuration"].get("training", {})
    return base_model.as_before(configuration, {f"training.{name}": value for name, value in training.items()})


def tree_of_base(base: dict[str, Any], configuration: Configuration) -> dict[str, Any]:
    """Return the tree of the base, given its complete configuration: what each trial starts from is part of it."""
    if configuration.training.initial_model is not None:
        return configuration.model_dump(mode="json", exclude_unset=True)
    # Without the values that other keys have set, which records of earlier versions lack.
    return config.with_values(base, {"training.initial_model": None})


def check_searched_keys(search: Search, initial_model: str | None) -> None:
    """Raise `UsageError` if a search varies what all trials take from their initial model."""
    fixed = {"training.initial_model", "training.initial_model_sha256"}
    if initial_model not in (None, AUTO):
        fixed |= network_keys.KEYS_OF_A_MODEL
    if refused := fixed & search.search.keys():
        raise UsageError(
            f"{', '.join(sorted(refused))}: cannot be searched, because all trials start from the same initial model: "
            "run one search for each value"
        )
