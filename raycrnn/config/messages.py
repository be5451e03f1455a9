"""Describe what is wrong with a configuration."""

import difflib
import json
from collections.abc import Sequence

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from raycrnn.config.group import Group
from raycrnn.config.schema import Configuration


def fields(tree: type[Group] = Configuration, prefix: str = "") -> dict[str, FieldInfo]:
    """Return the keys of a tree by dotted path, in order of definition, without the groups."""
    leaves: dict[str, FieldInfo] = {}
    for name, field in tree.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            leaves |= fields(field.annotation, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = field
    return leaves


def meaning(field: FieldInfo) -> str:
    """Return the docstring of a key on one line."""
    return " ".join((field.description or "").split())


def describe_problems(
    problems: Sequence[ErrorDetails], tree: dict[str, object], root: type[Group] = Configuration
) -> list[str]:
    """Return one line for each key that pydantic refused: its dotted path, its value and what is allowed.

    Args:
        problems: What pydantic found.
        tree: The values that it refused.
        root: The model of the tree.
    """
    messages: dict[str, list[str]] = {}
    for problem in problems:
        key = _key_of(problem, root)
        # A key of several types has a problem for each of them.
        messages.setdefault(key, []).append(_message(problem, key, root))
    return [_describe(key, " or ".join(dict.fromkeys(texts)), tree, root) for key, texts in messages.items()]


def _key_of(problem: ErrorDetails, root: type[Group]) -> str:
    """Return the key of a problem, without the names of union members and validators that pydantic appends."""
    path = [str(part) for part in problem["loc"]]
    known = fields(root).keys() | _groups(root)
    for length in range(len(path), 0, -1):
        if ".".join(path[:length]) in fields(root):
            return ".".join(path[:length])
    if problem["type"] not in ("extra_forbidden", "missing"):
        while path and ".".join(path) not in known:
            path.pop()
    return ".".join(path)


def _message(problem: ErrorDetails, key: str, root: type[Group]) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown key{suggestion(key, root)}"
    if problem["type"] == "missing" and key == ".".join(map(str, problem["loc"])):
        return "is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _describe(key: str, message: str, tree: dict[str, object], root: type[Group]) -> str:
    value: object = tree
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return f"{key or root.__name__.lower()}: {message}"
        value = value[part]
    if key not in fields(root):
        return f"{key}: {message}"
    return f"{key} = {to_json(value)}: {message}. {meaning(fields(root)[key])}"


def _groups(root: type[Group] = Configuration) -> set[str]:
    return {key.rpartition(".")[0] for key in fields(root)} - {""}


def suggestion(key: str, root: type[Group] = Configuration) -> str:
    """Return the end of a message on an unknown key: the most similar known one, or how to list all."""
    same_leaf = [known for known in fields(root) if known.endswith("." + key.rpartition(".")[2])]
    candidates = [*fields(root), *([] if "." in key else sorted(_groups(root)))]
    close = same_leaf or difflib.get_close_matches(key, candidates, n=1, cutoff=0.7)
    verb = "train" if root is Configuration else "words"
    return f"; did you mean {close[0]}?" if close else f"; `raycrnn {verb} --help` lists the keys"


def to_json(value: object) -> str:
    """Return a value as messages show it."""
    return json.dumps(value, ensure_ascii=False, default=str)
