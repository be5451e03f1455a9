"""Start a training from the weights of a model. Importing it does not import torch."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn import config, storage
from raycrnn.config import Configuration
from raycrnn.config.group import AUTO
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import UsageError
from raycrnn.model import model_files, model_names
from raycrnn.training import base_model, network_keys

if TYPE_CHECKING:
    from ray import ObjectRef

    from raycrnn.data.labelled_csvs import LabelledCsvs
    from raycrnn.model.crnn import CRNN

logger = logging.getLogger(__name__)

MOST_UNITS_SHOWN = 20


@dataclass(frozen=True)
class InitialModel:
    """The model that a run starts from."""

    location: str
    """Path or URI of the model directory, or its name in `model_names.NAMES`, as in the configuration of the run."""
    configuration: Configuration
    """The configuration of the model."""
    alphabet: Alphabet
    """The units of the model, in the normalisation form of the run's labels."""
    sha256: str
    """Digest of the file of weights."""
    weights: "bytes | ObjectRef" = field(repr=False)
    """The content of that file, or its reference in the object store."""

    def complete(self, configuration: Configuration) -> Configuration:
        """Return the configuration of a run, with the keys of the network that it does not set taken from this model.

        Raises:
            UsageError: Keys that it sets need another network than that of this model.
        """
        self._check_network(configuration)
        values = network_keys.values_not_set(configuration, self.configuration.identity())
        before = configuration.model_dump(mode="json")
        taken = {key: value for key, value in values.items() if config.value_at(before, key) != value}
        if taken:
            listed = ", ".join(f"{key}={config.to_json(value)}" for key, value in taken.items())
            logger.info(f"taken from {self._name}: {listed}")
        height, models_height = (each.image.input_shape[0] for each in (configuration, self.configuration))
        if "image.input_shape" not in values and height != models_height:
            logger.info(
                f"{self._name} was trained at a height of {models_height} pixels: its weights are adapted to {height}"
            )
        own, model = configuration.data, self.configuration.data
        # The models that come with raycrnn read lines that run in any way, after the turn.
        if own.line_orientation != model.line_orientation and self.location not in model_names.NAMES:
            logger.warning(
                f"data.line_orientation is {own.line_orientation}, that of {self._name} is {model.line_orientation}: "
                "set it to the same value if the lines run alike"
            )
        return config.completed(configuration, {**values, "training.initial_model_sha256": self.sha256})

    def _check_network(self, configuration: Configuration) -> None:
        if conflicts := network_keys.conflicts(configuration, self.configuration):
            raise UsageError(
                f"training.initial_model={self._name}: the configuration needs another network\n  "
                + "\n  ".join(str(conflict) for conflict in conflicts)
                + "\nremove these keys, which are then taken from the model, or remove training.initial_model"
            )

    def add_units(self, csvs: "LabelledCsvs", configuration: Configuration) -> None:
        """Add the units of this model to those of a run, as `training.initial_alphabet` says.

        Raises:
            UsageError: `data.lookup_alphabet_file` is set, although the alphabet must be that of this model.
        """
        match configuration.training.initial_alphabet:
            case "same" if csvs.alphabet is not None:
                raise UsageError(
                    "training.initial_alphabet=same: the alphabet is that of the model: remove "
                    "data.lookup_alphabet_file, or set training.initial_alphabet to union or new"
                )
            case "same":
                csvs.alphabet = self.alphabet
            case "union" if csvs.alphabet is not None:
                csvs.alphabet = Alphabet(tuple(dict.fromkeys((*csvs.alphabet.units, *self.alphabet.units))))
            case "union":
                csvs.more_units += self.alphabet.units
        direction, own = csvs.text_direction, self.configuration.data.text_direction
        if "rtl" in (direction, own) and direction != own:
            logger.warning(
                f"the labels have the text direction {direction}, those of {self._name} had {own}: set "
                "data.text_direction if that is not what you expect"
            )

    def put(self) -> "InitialModel":
        """Return this model with its weights in the object store, from which each worker reads them.

        Raises:
            RaycrnnError: The weights are damaged, not those of the model's configuration, or not finite.
        """
        import ray

        from raycrnn.model import model_dir
        from raycrnn.model.crnn import CRNN

        assert isinstance(self.weights, bytes)
        own, classes = self.configuration, len(self.alphabet) + 1
        network = CRNN.from_settings(own.model, own.image, classes, initialised=False)
        model_dir.load_weights(network, self.weights, storage.join(self._name, model_files.WEIGHTS))
        return replace(self, weights=ray.put(self.weights))

    def load_into(self, network: "CRNN", alphabet: Alphabet) -> None:
        """Load the weights into a network. In its output layer, the classes of units that the model lacks are kept.

        Args:
            network: A network that differs from that of the model at most in its units and in the height of its images.
            alphabet: The units of its outputs.
        """
        import safetensors.torch

        from raycrnn.model.crnn import weights_for_height

        data = self.weights
        if not isinstance(data, bytes):
            import ray

            data = ray.get(data)
        tensors = safetensors.torch.load(data)
        rows = {unit: row for row, unit in enumerate(self.alphabet.units)}
        pairs = [(row, rows[unit]) for row, unit in enumerate(alphabet.units) if unit in rows]
        own_rows, model_rows = map(list, zip(*pairs, (alphabet.blank, self.alphabet.blank), strict=True))
        for name in ("output.weight", "output.bias"):
            values = network.get_parameter(name).detach().clone()
            # The weights may be stored in half precision.
            values[own_rows] = tensors[name][model_rows].to(values.dtype)
            tensors[name] = values
        network.load_state_dict(weights_for_height(tensors, network.height))

    def describe(self, alphabet: Alphabet) -> str:
        """Return the line that says which units of a run are those of this model."""
        new = [unit for unit in alphabet.units if unit not in self.alphabet]
        dropped = [unit for unit in self.alphabet.units if unit not in alphabet]
        kept = len(alphabet) - len(new)
        return f"starts from {self._name}: {kept} units kept, {_listed(new, 'new')}, {_listed(dropped, 'dropped')}"

    @property
    def _name(self) -> str:
        return storage.redacted(self.location)


def _listed(units: Sequence[str], what: str) -> str:
    shown = ", ".join(map(repr, units[:MOST_UNITS_SHOWN])) + (", …" if len(units) > MOST_UNITS_SHOWN else "")
    return f"{len(units)} {what}" + (f" ({shown})" if units else "")


def read(configuration: Configuration) -> InitialModel:
    """Read the model that `training.initial_model` names, without interpreting its weights.

    Raises:
        UsageError: There is no model directory, its weights are not those of `training.initial_model_sha256`, or some
            of its units are equal in the normalisation form of the labels.
        RaycrnnError: Files are missing or damaged.
    """
    training = configuration.training
    assert training.initial_model is not None
    location = training.initial_model
    model = model_files.read_unchanged(location, lambda folder: _read(folder, location, configuration))
    if training.initial_model_sha256 not in (None, model.sha256):
        raise UsageError(
            f"{storage.redacted(location)}: the SHA-256 of its weights is {model.sha256}, but "
            f"training.initial_model_sha256 is {training.initial_model_sha256}: the model was replaced, or another one "
            "was meant; remove the key to train with these weights"
        )
    return model


def _read(folder: Path, location: str, configuration: Configuration) -> InitialModel:
    own = model_files.configuration_of(folder, location, ())
    form = configuration.data.unicode_form if "data.unicode_form" in config.set_keys(configuration) else None
    try:
        alphabet = Alphabet.load(folder / model_files.ALPHABET, form or own.data.unicode_form)
    except UsageError as error:
        if form in (None, own.data.unicode_form):
            raise
        raise UsageError(f"{error}: set data.unicode_form={own.data.unicode_form}, as in this model") from None
    weights = (folder / model_files.WEIGHTS).read_bytes()
    return InitialModel(location, own, alphabet, hashlib.sha256(weights).hexdigest(), weights)


def prepare_run(configuration: Configuration) -> "tuple[Configuration, InitialModel | None, LabelledCsvs]":
    """Return the complete configuration of a new run, the model that it starts from, if there is one, and its CSVs.

    Raises:
        UsageError: A CSV cannot be read, or the model cannot be read or does not fit the configuration.
        RaycrnnError: Files of the model are missing or damaged.
    """
    from raycrnn.data import labelled_csvs

    if configuration.training.initial_model != AUTO:
        configuration, model = prepare(configuration)
        return configuration, model, read_csvs(configuration, model)
    csvs = labelled_csvs.read(configuration)
    # The models that come with raycrnn have the Unicode form in which the CSVs have been read.
    configuration, model = prepare(base_model.choose(configuration, csvs))
    if model is not None:
        model.add_units(csvs, configuration)
    return configuration, model, csvs


def prepare(configuration: Configuration) -> tuple[Configuration, InitialModel | None]:
    """Return the complete configuration of a new run, and the model that it starts from, if there is one.

    Args:
        configuration: A configuration whose `training.initial_model` is not `auto`.

    Raises:
        UsageError: The model cannot be read, or has another network than the configuration needs.
        RaycrnnError: Files of the model are missing or damaged.
    """
    if configuration.training.initial_model is None:
        return configuration, None
    model = read(configuration)
    return model.complete(configuration), model


def read_csvs(configuration: Configuration, model: InitialModel | None) -> "LabelledCsvs":
    """Read the CSVs of a run, and add the units of the model that it starts from.

    Raises:
        UsageError: A file cannot be read or has no usable label, or the settings for the alphabet exclude each other.
    """
    from raycrnn.data import labelled_csvs

    csvs = labelled_csvs.read(configuration)
    if model is not None:
        model.add_units(csvs, configuration)
    return csvs
