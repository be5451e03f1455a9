"""The configuration tree, its JSON files and its key=value overrides."""

from raycrnn.config.augmentation import Augmentation, Effect
from raycrnn.config.group import Group
from raycrnn.config.loading import (
    GROUP_OF_FLAT_KEY,
    completed,
    grouped,
    is_override,
    load,
    parse,
    problems_of,
    read_json_object,
    set_keys,
    validated,
    value_at,
    with_overrides,
    with_values,
)
from raycrnn.config.messages import describe_problems, fields, suggestion, to_json
from raycrnn.config.reference import describe_keys, reference_markdown, tables_markdown
from raycrnn.config.schema import (
    Cluster,
    Configuration,
    Data,
    Decoding,
    Image,
    Model,
    Positive,
    Training,
    one_as_several,
)

__all__ = [
    "GROUP_OF_FLAT_KEY",
    "Augmentation",
    "Cluster",
    "Configuration",
    "Data",
    "Decoding",
    "Effect",
    "Group",
    "Image",
    "Model",
    "Positive",
    "Training",
    "completed",
    "describe_keys",
    "describe_problems",
    "fields",
    "grouped",
    "is_override",
    "load",
    "one_as_several",
    "parse",
    "problems_of",
    "read_json_object",
    "reference_markdown",
    "set_keys",
    "suggestion",
    "tables_markdown",
    "to_json",
    "validated",
    "value_at",
    "with_overrides",
    "with_values",
]
