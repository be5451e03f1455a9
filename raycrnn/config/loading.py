"""Read a configuration: JSON, tf-crnn's flat keys, and key=value overrides."""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from raycrnn import storage
from raycrnn.config import messages, schema
from raycrnn.config.schema import Configuration
from raycrnn.errors import UsageError

# Where each key of tf-crnn's flat JSON lives. Its `training_params` object is the group `training`.
GROUP_OF_FLAT_KEY = {
    "csv_files_train": "data",
    "csv_files_eval": "data",
    "csv_delimiter": "data",
    "string_split_delimiter": "data",
    "lookup_alphabet_file": "data",
    "input_data_n_parallel_calls": "data",
    "input_shape": "image",
    "input_channels": "image",
    "data_augmentation": "augmentation",
    "data_augmentation_max_rotation": "augmentation",
    "keep_prob": "model",
    "num_beam_paths": "decoding",
    "num_gpus": "cluster",
}


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Configuration:
    """Read a configuration file and apply `key=value` overrides.

    Raises:
        UsageError: no such file, not JSON, an unknown key, a wrong type, an impossible value.
    """
    return parse(read_json_object(path), overrides, origin=str(path))


def parse(tree: dict, overrides: list[str] | tuple[str, ...] = (), origin: str = "configuration") -> Configuration:
    """Validate a configuration given as a JSON object, grouped or flat. Raises `UsageError`."""
    tree = grouped(tree, overrides, origin)
    found = _validate(tree)
    if isinstance(found, Configuration):
        return found
    problems = "\n".join(f"  {problem}" for problem in found)
    raise UsageError(f"{origin}: the configuration is not valid\n{problems}")


def grouped(tree: dict, overrides: Sequence[str] = (), origin: str = "configuration") -> dict:
    """The tree with tf-crnn's flat keys in their groups and overrides applied, not validated. Raises `UsageError`."""
    tree = sort_flat_keys(tree, origin)
    for override in overrides:
        apply_override(tree, override)
    return tree


def with_values(tree: dict, values: dict[str, Any]) -> dict:
    """A copy of a grouped tree in which dotted keys have these values. Raises `UsageError`."""
    tree = copy.deepcopy(tree)
    for key, value in values.items():
        _set(tree, key, value)
    return tree


def value_at(tree: dict, key: str) -> Any:
    """The value of a dotted key in a whole tree."""
    for part in key.split("."):
        tree = tree[part]
    return tree


def problems_of(tree: dict) -> list[str]:
    """What is wrong with a grouped tree, a line a key."""
    found = _validate(tree)
    return [] if isinstance(found, Configuration) else found


def _validate(tree: dict) -> "Configuration | list[str]":
    try:
        # By way of JSON, where an array is what a tuple is written as, even when validation is strict.
        return Configuration.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        return messages.describe_problems(error.errors(), tree)


def read_json_object(path: str | Path) -> dict:
    """Read a JSON object, refusing repeated keys. Raises `UsageError` with file and line."""
    try:
        value = json.loads(storage.read(path).decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {storage.describe(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read as UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not a JSON object {{…}}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        repeated = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {repeated!r} stands twice")
    return keys


def sort_flat_keys(tree: dict, origin: str = "configuration") -> dict:
    """Move tf-crnn's flat keys into their groups; grouped keys stay. Raises `UsageError` on a key given twice."""
    sorted_tree = copy.deepcopy(tree)
    if "training_params" in sorted_tree:
        _move(sorted_tree, "training", sorted_tree.pop("training_params"), origin)
    for key in [key for key in sorted_tree if key in GROUP_OF_FLAT_KEY]:
        _move(sorted_tree, GROUP_OF_FLAT_KEY[key], {key: sorted_tree.pop(key)}, origin)
    return sorted_tree


def _move(tree: dict, group: str, values: Any, origin: str) -> None:
    if not isinstance(values, dict) or not isinstance(tree.setdefault(group, {}), dict):
        raise UsageError(f"{origin}: {group} must be a JSON object {{…}}")
    for key, value in values.items():
        if key in tree[group]:
            raise UsageError(f"{origin}: {group}.{key} is given twice, flat and in its group: keep one")
        tree[group][key] = value


def apply_override(tree: dict, override: str) -> None:
    """Set one `dotted.key=value` in a grouped tree, in place. Raises `UsageError`."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"{override!r}: an override is key=value, such as training.learning_rate=3e-4")
    _set(tree, key, _override_value(key, text))


def _set(tree: dict, key: str, value: Any) -> None:
    *groups, leaf = key.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{key}: {group} is no group of keys")
    tree[leaf] = value


def _override_value(key: str, text: str) -> Any:
    """The text as JSON where the key's type takes it so, else as the string it is."""
    field = messages.fields().get(key)
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text
    # `output_model_dir=2024` is a name: a key that takes strings and would refuse the number gets the string.
    takes_strings = field is not None and str in _types(field.annotation) and not isinstance(value, list | dict)
    if takes_strings and not _accepts(field, value):
        return text
    return value


def _accepts(field: FieldInfo, value: Any) -> bool:
    adapter = TypeAdapter(Annotated[(field.annotation, Field(), *field.metadata)])
    try:
        adapter.validate_json(json.dumps(value), strict=True)
        return True
    except (ValidationError, TypeError):
        return False


def _types(annotation: Any) -> set:
    """All types named anywhere in an annotation."""
    arguments = get_args(annotation)
    return {annotation}.union(*(_types(a) for a in arguments)) if arguments else {annotation}


def is_override(text: str) -> bool:
    """Whether a word on the command line is a `key=value` of the configuration, rather than a path."""
    key, equals, _ = text.partition("=")
    return bool(equals) and key.partition(".")[0] in schema.Configuration.model_fields and not os.path.exists(text)
