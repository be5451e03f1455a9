"""Read a configuration from JSON, with tf-crnn's flat keys and key=value overrides."""

import codecs
import copy
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from raycrnn import storage
from raycrnn.config import messages
from raycrnn.config.group import Group
from raycrnn.config.schema import Configuration
from raycrnn.errors import UsageError

AnyGroup = TypeVar("AnyGroup", bound=Group)

Tree = dict[str, Any]
"""A configuration as a JSON object."""

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
"""The group of each key in tf-crnn's flat JSON. Its object `training_params` is the group `training`."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Configuration:
    """Read a configuration file and apply `key=value` overrides.

    Raises:
        UsageError: The file is missing or is not JSON, or a key is unknown or has a wrong type or value.
    """
    return parse(read_json_object(path), overrides, origin=str(path))


def parse(tree: Tree, overrides: Sequence[str] = (), origin: str = "configuration") -> Configuration:
    """Validate a configuration given as a JSON object, with grouped or flat keys.

    Args:
        origin: The name of the configuration in error messages, such as its file.

    Raises:
        UsageError: The configuration is not valid; the message lists all problems.
    """
    name = f"{origin} with overrides" if overrides else origin
    return validated(grouped(tree, overrides, origin), Configuration, name, "configuration")


def validated(tree: Tree, root: type[AnyGroup], origin: str, kind: str) -> AnyGroup:
    """Validate a tree of keys.

    Args:
        tree: The tree.
        root: Its model.
        origin: Its name in error messages, such as its file.
        kind: What it is, for error messages.

    Raises:
        UsageError: The tree is not valid; the message lists all problems.
    """
    result = _validate(tree, root)
    if not isinstance(result, list):
        return result
    raise UsageError("\n".join([f"{origin}: the {kind} is not valid", *(f"  {problem}" for problem in result)]))


def grouped(tree: Tree, overrides: Sequence[str] = (), origin: str = "configuration") -> Tree:
    """Return a copy of a tree with flat keys moved to their groups and overrides applied, without validating it.

    Raises:
        UsageError: A key is given twice, or an override is not `key=value`.
    """
    tree = copy.deepcopy(tree)
    if "training_params" in tree:
        _move(tree, "training", tree.pop("training_params"), origin)
    for key in [key for key in tree if key in GROUP_OF_FLAT_KEY]:
        _move(tree, GROUP_OF_FLAT_KEY[key], {key: tree.pop(key)}, origin)
    return with_overrides(tree, overrides)


def with_overrides(tree: Tree, overrides: Sequence[str], root: type[Group] = Configuration) -> Tree:
    """Return a copy of a grouped tree with `key=value` overrides applied, without validating it.

    Args:
        tree: The tree.
        overrides: The texts `key=value`.
        root: The model of the tree, whose types decide whether a value is JSON or text.

    Raises:
        UsageError: An override is not `key=value`, or a part of its key is not a group.
    """
    tree = copy.deepcopy(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UsageError(f"{override!r}: an override is key=value, such as training.learning_rate=3e-4")
        _set(tree, key, _override_value(messages.fields(root).get(key), text))
    return tree


def with_values(tree: Tree, values: Mapping[str, object]) -> Tree:
    """Return a copy of a grouped tree with new values for dotted keys.

    Raises:
        UsageError: A part of a key is not a group.
    """
    tree = copy.deepcopy(tree)
    for key, value in values.items():
        _set(tree, key, value)
    return tree


def completed(configuration: Configuration, values: Mapping[str, object]) -> Configuration:
    """Return a configuration in which dotted keys have new values, and count as set."""
    return parse(with_values(configuration.model_dump(mode="json", exclude_unset=True), values))


def set_keys(configuration: Configuration) -> set[str]:
    """Return the keys that were given a value other than null, in the configuration's file or in an override.

    A key within two groups is represented by the inner one: augmentation.blur, not augmentation.blur.strength.
    """
    tree = configuration.model_dump(exclude_unset=True, exclude_none=True)
    groups = {group: values for group, values in tree.items() if isinstance(values, dict)}
    return {f"{group}.{key}" for group, values in groups.items() for key in values} | tree.keys() - groups.keys()


def value_at(tree: Tree, key: str) -> object:
    """Return the value of a dotted key in a complete tree."""
    for part in key.split("."):
        tree = tree[part]
    return tree


def problems_of(tree: Tree) -> list[str]:
    """Return the problems of a grouped tree, one line for each key; empty if it is valid."""
    result = _validate(tree, Configuration)
    return [] if isinstance(result, Configuration) else result


def _validate(tree: Tree, root: type[AnyGroup]) -> AnyGroup | list[str]:
    try:
        # Through JSON, because strict validation accepts arrays for tuples only there.
        return root.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        return messages.describe_problems(error.errors(), tree, root)


def read_json_object(path: str | Path) -> Tree:
    """Read a JSON object without repeated keys.

    Raises:
        UsageError: The file is missing, cannot be read or is not such an object; the message has the line.
    """
    try:
        value = json.loads(_decode(storage.read(path)), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {storage.describe(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read as {error.encoding}: {error}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON: {error.msg}{_found(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not a JSON object {{…}}")
    return value


def _decode(data: bytes) -> str:
    """Return the text of a JSON file in UTF-8, or in UTF-16 with a byte order mark. Raises `UnicodeDecodeError`."""
    is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf_16 else "utf-8-sig")


def _found(error: json.JSONDecodeError) -> str:
    """Return the end of a message: the character at an error if it may look like another one or be invisible."""
    character = error.doc[error.pos : error.pos + 1]
    if not character or character.isascii():
        return ""
    return f"; found U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _unique_keys(pairs: list[tuple[str, object]]) -> Tree:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        repeated = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {repeated!r} is given twice")
    return keys


def _move(tree: Tree, group: str, values: object, origin: str) -> None:
    """Add values to a group. Raises `UsageError` if one of them is there already."""
    if not isinstance(values, dict) or not isinstance(tree.setdefault(group, {}), dict):
        raise UsageError(f"{origin}: {group} must be a JSON object {{…}}")
    for key, value in values.items():
        if key in tree[group]:
            raise UsageError(f"{origin}: {group}.{key} is given twice, flat and in its group: remove one of them")
        tree[group][key] = value


def _set(tree: Tree, key: str, value: object) -> None:
    *groups, leaf = key.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{key}: {group} is not a group of keys")
    tree[leaf] = value


def _override_value(field: FieldInfo | None, text: str) -> object:
    """Parse the text as JSON if the key accepts that value; otherwise return the text itself."""
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text
    if field is None or str not in _types(field.annotation) or isinstance(value, list | dict):
        return value
    # `output_model_dir=2024` is a name: a key that takes strings but not this number gets the string.
    return value if _accepts(field, value) else text


def _accepts(field: FieldInfo, value: object) -> bool:
    annotation: Any = Annotated[(field.annotation, Field(), *field.metadata)]
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
        return True
    except (ValidationError, TypeError):
        return False


def _types(annotation: object) -> set[object]:
    """Return all types that an annotation names at any depth."""
    return {annotation}.union(*map(_types, get_args(annotation)))


def is_override(text: str) -> bool:
    """Return whether a command-line argument is a `key=value` of the configuration and not a path."""
    key, equals, _ = text.partition("=")
    return bool(equals) and key.partition(".")[0] in Configuration.model_fields and not os.path.exists(text)
