"""Read a search file: the keys to search, the values to try, and how.

The file is YAML, for example `training.learning_rate: {loguniform: [1e-4, 1e-2]}`. Nothing in it is executed. Every
mistake is reported as a `UsageError` with its line before any trial starts.
"""

import difflib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from raycrnn import config, storage
from raycrnn.config import Group
from raycrnn.errors import UsageError
from raycrnn.tuning.search_space import NOT_SEARCHED, Resources, Scheduler, Search


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with two changes: `1e-4` is a number (in YAML 1.1 only `1.0e-4` is), a date a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$|^[-+]?\.\d+[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load(path: str | Path, tree: dict) -> tuple[Search, dict]:
    """Read a search file.

    Args:
        path: Path or URI.
        tree: The configuration that the search starts from, grouped.

    Returns:
        The search, and the base: the tree with the values that the search fixes.

    Raises:
        UsageError: The file does not exist, is not YAML, has an unknown key or a value that the configuration rejects.
    """
    written, lines = _read(path)
    try:
        search = Search.model_validate(written, strict=False)
    except ValidationError as error:
        _refuse(path, lines, _problems(error, lines))
    _refuse(path, lines, _wrong_keys(search))
    base = config.with_values(tree, search.fixed)
    _refuse(path, lines, _refused_values(search, tree, base))
    _refuse(path, lines, _unequal_budgets(search, base))
    return search, base


Place = tuple[str, ...]
Problem = tuple[Place, str]
"""The path of keys to a mistake, and its description."""


def _refuse(path: str | Path, lines: dict[Place, int], problems: list[Problem]) -> None:
    """Raise `UsageError` with the line of each problem, if there are any."""
    if not problems:
        return
    numbered = sorted((_line(lines, place), text) for place, text in problems)
    raise UsageError("\n".join(f"{path}, line {line}: {text}" for line, text in dict.fromkeys(numbered)))


def _line(lines: dict[Place, int], place: Place) -> int:
    while place not in lines and place:
        place = place[:-1]
    return lines.get(place, 1)


def _problems(error: ValidationError, lines: dict[Place, int]) -> list[Problem]:
    """Return the problems that pydantic found. Messages about one key of several types are joined."""
    messages: dict[Place, list[str]] = {}
    for detail in error.errors():
        place = tuple(map(str, detail["loc"]))
        message = detail["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if not place:
            # A message about the file as such, which begins with the key.
            key, _, message = message.partition(": ")
            place = (key,)
        # Pydantic appends names of types to the location.
        while len(place) > 1 and place not in lines and detail["type"] != "extra_forbidden":
            place = place[:-1]
        messages.setdefault(place, []).append(_unknown(place, detail["type"]) or message)
    return [(place, f"{_label(place)}: {' or '.join(dict.fromkeys(texts))}") for place, texts in messages.items()]


def _label(place: Place) -> str:
    return place[-1] if place[0] in ("search", "fixed") else ".".join(place)


def _unknown(place: Place, kind: str) -> str | None:
    """Return what is wrong with an unknown key, or None if the key is known."""
    key = place[-1]
    if place[0] in ("search", "fixed") and any(known.startswith(f"{key}.") for known in config.fields()):
        return f"is a group of keys: write the dotted name of each key, such as {key}.NAME"
    if kind != "extra_forbidden":
        return None
    if key in config.fields():
        return "unknown key: keys of the configuration belong under search or fixed"
    if place[0] == "scheduler" and len(place) == 2:
        return "unknown scheduler: use asha, pbt or none"
    groups: dict[str, type[Group]] = {"scheduler": Scheduler, "resources": Resources}
    group = Search if len(place) == 1 else groups.get(place[0]) if len(place) == 2 else None
    close = difflib.get_close_matches(key, group.model_fields if group else (), n=1)
    return f"unknown key{f'; did you mean {close[0]}?' if close else ''}"


def _unequal_budgets(search: Search, base: dict) -> list[Problem]:
    """Return the keys that change how often trials see the images. Without `training.n_epochs`, the batch size does."""
    key = "training.train_batch_size"
    if key not in search.search or config.parse(base).training.n_epochs is not None:
        return []
    problem = "set training.n_epochs too, or trials with large batches may train for more epochs than others"
    return [(("search", key), f"{key}: {problem}")]


def _wrong_keys(search: Search) -> list[Problem]:
    """Return the keys that cannot be searched or fixed, and why."""
    problems: list[Problem] = []
    for group in ("search", "fixed"):
        for key in getattr(search, group):
            if key not in config.fields():
                problems.append(((group, key), f"{key}: unknown key of the configuration{config.suggestion(key)}"))
    for key in search.search:
        for name in (key, key.partition(".")[0]):
            if name in NOT_SEARCHED:
                problems.append((("search", key), f"{key}: cannot be searched: {NOT_SEARCHED[name]}"))
        if key in search.fixed:
            problems.append((("fixed", key), f"{key}: is both fixed and searched: remove one of the two"))
        if search.scheduler.pbt and key in config.fields() and not _changes_in_training(key):
            problem = f"{key}: pbt cannot change it, because trials take over each other's weights"
            problems.append((("search", key), problem))
    decoded = [key for key in search.search if key.startswith("decoding.")]
    if decoded and not search.decoding_only:
        problem = "training does not depend on it: search decoding.* in a separate file, with --model"
        problems += [(("search", key), f"{key}: {problem}") for key in decoded]
    if search.decoding_only:
        idle = [key for key in search.fixed if not key.startswith(("decoding.", "data."))]
        problems += [(("fixed", key), f"{key}: has no effect on a search over decoding.* alone") for key in idle]
    for key in {"output_model_dir", "restore_model"} & search.fixed.keys():
        problems.append((("fixed", key), f"{key}: {NOT_SEARCHED[key]}; set the search's own on the command line"))
    return problems


CHANGE_IN_TRAINING = {
    "model.keep_prob",
    "training.learning_rate",
    "training.initial_layers_rate",
    "training.weight_decay",
    "training.gradient_clip",
    "training.learning_decay_rate",
}


def _changes_in_training(key: str) -> bool:
    return key in CHANGE_IN_TRAINING or key.startswith("augmentation.")


def _refused_values(search: Search, tree: dict, base: dict) -> list[Problem]:
    """Return the values that the configuration rejects. Each one is checked alone, on top of the base."""
    problems: list[Problem] = [(("fixed",), text) for text in config.problems_of(tree)]
    for key, value in search.fixed.items() if not problems else ():
        problems += [(("fixed", key), text) for text in _problems_with(tree, key, value)]
    # Values that are valid one by one may be invalid together.
    if not problems:
        problems = [(("fixed",), text) for text in config.problems_of(base)]
    if problems:
        return problems
    for key, distribution in search.search.items():
        refused = (text for value in distribution.probes() for text in _problems_with(base, key, value))
        problems += [(("search", key), text) for text in itertools.islice(refused, 1)]
    return problems


def _problems_with(tree: dict, key: str, value: object) -> list[str]:
    return config.problems_of(config.with_values(tree, {key: value}))


def _read(path: str | Path) -> tuple[dict, dict[Place, int]]:
    """Read a YAML file. Return its content and the line of each key. Raises `UsageError`."""
    try:
        text = storage.read(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {storage.describe(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read as UTF-8: {error}") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines = dict(_lines_of(path, node, ())) if node else {}
        value = loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: contains no keys; a search file begins with search:")
    return value, lines


def _lines_of(path: str | Path, node: yaml.Node, place: Place) -> Iterator[tuple[Place, int]]:
    """Yield the path and the line (from 1) of each key. Raises `UsageError` if a key occurs twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{path}, line {line}: a key must be a string")
        if key.value in seen:
            raise UsageError(f"{path}, line {line}: the key {key.value!r} occurs twice")
        seen.add(key.value)
        yield (*place, key.value), line
        # No message names a deeper key.
        if len(place) < 2:
            yield from _lines_of(path, value, (*place, key.value))
