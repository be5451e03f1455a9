"""Describe configuration keys and what is wrong with their values."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from raycrnn.config.schema import Configuration, Group


def fields(tree: type[Group] = Configuration, prefix: str = "") -> dict[str, FieldInfo]:
    """Every leaf key of the tree by its dotted path, in order of definition."""
    leaves = {}
    for name, field in tree.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            leaves |= fields(field.annotation, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = field
    return leaves


def describe_keys() -> str:
    """The table of all keys for --help: dotted path, default, one line of meaning."""
    blocks = {}
    for key, field in fields().items():
        default = "(required)" if field.is_required() else f"[{to_json(field.default)}]"
        meaning = " ".join((field.description or "").split())
        blocks.setdefault(key.partition(".")[0] if "." in key else "", []).append(f"  {key} {default}\n      {meaning}")
    return "\n".join("\n".join(lines) for lines in blocks.values())


def describe_problems(problems: Sequence[Any], tree: dict) -> list[str]:
    """One line for each key that pydantic finds fault with: the dotted path, the value and what is allowed."""
    messages: dict[str, list[str]] = {}
    for problem in problems:
        key = _key_of(problem)
        # A key of several types has a complaint from each of them.
        messages.setdefault(key, []).append(_message(problem, key))
    return [_describe(key, " or ".join(dict.fromkeys(each)), tree) for key, each in messages.items()]


def _key_of(problem: Any) -> str:
    """The user's key: pydantic appends the names of union members and validators to its path."""
    path = [str(part) for part in problem["loc"]]
    known = fields().keys() | _groups()
    for length in range(len(path), 0, -1):
        if ".".join(path[:length]) in fields():
            return ".".join(path[:length])
    if problem["type"] not in ("extra_forbidden", "missing"):
        while path and ".".join(path) not in known:
            path.pop()
    return ".".join(path)


def _message(problem: Any, key: str) -> str:
    if problem["type"] == "extra_forbidden":
        return f"unknown key{suggestion(key)}"
    if problem["type"] == "missing" and key == ".".join(map(str, problem["loc"])):
        return "is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _describe(key: str, message: str, tree: dict) -> str:
    found: Any = tree
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return f"{key or 'configuration'}: {message}"
        found = found[part]
    if key not in fields():
        return f"{key}: {message}"
    meaning = " ".join((fields()[key].description or "").split())
    return f"{key} = {to_json(found)}: {message} ({meaning})"


def _groups() -> set[str]:
    return {key.rpartition(".")[0] for key in fields()} - {""}


def suggestion(key: str) -> str:
    """The known key that an unknown one may be meant to be, as the end of a message."""
    same_leaf = [known for known in fields() if known.endswith("." + key.rpartition(".")[2])]
    candidates = [*fields(), *([] if "." in key else sorted(_groups()))]
    close = same_leaf or difflib.get_close_matches(key, candidates, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else "; `--help` lists the keys"


def to_json(value: Any) -> str:
    """As messages show a value."""
    return json.dumps(value, ensure_ascii=False, default=str)
