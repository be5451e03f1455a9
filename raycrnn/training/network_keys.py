"""The keys of the configuration that determine which weights a network has."""

from dataclasses import dataclass

from raycrnn import config
from raycrnn.config import Configuration
from raycrnn.config.schema import CHANNELS_OF_SIZE, LSTM_OF_SIZE

NETWORK_KEYS = ("model.cnn_channels", "model.lstm_size", "model.lstm_layers", "image.input_channels")
"""The keys in `Configuration.identity` that determine which weights a network has, besides its units and the height of
its images, to which weights can be adapted."""

SET_BY_SIZE = ("model.cnn_channels", "model.lstm_size")
"""The keys that `model.size` sets, unless they are set themselves."""

KEYS_OF_A_MODEL = {"model.size", "image.input_shape", "data.unicode_form", *NETWORK_KEYS}
"""The keys whose values a run takes from the model that it starts from, unless it sets them."""


@dataclass(frozen=True)
class Conflict:
    """A key that a configuration sets to another value than a model has."""

    key: str
    """The key that is set: `model.size` if it sets what differs."""
    part: str | None
    """What differs, if the key sets more than that."""
    value: object
    models_value: object

    def __str__(self) -> str:
        name = f"{self.key} ({self.part})" if self.part else self.key
        return f"{name} is {self.value}, that of the model is {self.models_value}"


def conflicts(configuration: Configuration, model: Configuration) -> list[Conflict]:
    """Return the keys that a configuration sets and for which it needs another network than that of a model."""
    set_keys, own, models = config.set_keys(configuration), configuration.identity(), model.identity()
    found = []
    for key in NETWORK_KEYS:
        setter = "model.size" if key in SET_BY_SIZE and key not in set_keys else key
        if setter in set_keys and own[key] != models[key]:
            part = key if setter == "model.size" else None
            found.append(Conflict(setter, part, own[key], models[key]))
    return found


def values_not_set(configuration: Configuration, identity: dict[str, object]) -> dict[str, object]:
    """Return values for the keys that a configuration does not set and that are taken from a model.

    Args:
        configuration: The configuration of a run.
        identity: The values, as `Configuration.identity` returns them.
    """
    set_keys = config.set_keys(configuration)
    if "model.size" in set_keys:
        set_keys |= set(SET_BY_SIZE)
    keys = (*NETWORK_KEYS, "image.input_shape", "data.unicode_form")
    values = {key: identity[key] for key in keys if key not in set_keys}
    for size, channels in CHANNELS_OF_SIZE.items():
        named = {"model.cnn_channels": list(channels), "model.lstm_size": LSTM_OF_SIZE[size]}
        if named.items() <= values.items():
            rest = {key: value for key, value in values.items() if key not in named}
            return {"model.size": size, **rest}
    return values
