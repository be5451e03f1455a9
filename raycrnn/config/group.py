"""What the models of all keys share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from raycrnn.storage import with_home


def _integral_float_as_int(value: object) -> object:
    """Return 1e3 as 1000: JSON files, such as tf-crnn's template, write integers this way."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Share = Annotated[float, Field(ge=0, le=1)]
Integer = Annotated[int, BeforeValidator(_integral_float_as_int)]
Positive = Annotated[Integer, Field(ge=1)]
Location = Annotated[str, AfterValidator(with_home)]
"""A path or URI; `~/` at its start stands for the home directory."""


AUTO = "auto"
"""The value of a key that leaves the choice to raycrnn."""


class Group(BaseModel):
    """A group of keys: immutable, strictly typed, without unknown keys."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
