"""The documents agree with the code: commands, keys, names, files, links and snippets of all pages."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image, ImageEnhance

from raycrnn import config
from raycrnn.bench import training_plan
from raycrnn.bench.__main__ import BENCHMARKS
from raycrnn.cli import VERBS, Command
from raycrnn.data import csv_files, rejections
from raycrnn.data.synthetic import recipe
from raycrnn.tools.words import OVERRIDE
from raycrnn.tuning import search_file

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "latin" / "README.md",
    *sorted(DOCS.glob("*.md")),
]
MOST_WORDS_IN_README = 1500

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
"""A fenced block: indentation, language, text."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(text) for _, own, text in found if own == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the commands of a page, with continued lines joined."""
    scripts = [*blocks(page, "bash"), *blocks(page, "sh")]
    scripts += ["\n".join(re.findall(r"^\$ (.*)", text, re.MULTILINE)) for text in blocks(page, "console")]
    for script in scripts:
        yield from filter(str.strip, script.replace("\\\n", " ").splitlines())


def raycrnn_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the verb and the arguments of each command of raycrnn, alone or behind another command's."""
    for line in shell_lines(page):
        if found := re.search(r"(?:^|\s)(?:python -m raycrnn[. ]|raycrnn\s+)(\w+)(\s.*)?$", line):
            verb, rest = found.groups()
            yield verb, shlex.split(rest or "", comments=True)


def command_of(verb: str, arguments: list[str]) -> tuple[type[Command], list[str]]:
    """Return the class of a verb, or of a benchmark, and its own arguments."""
    if verb == "bench":
        name, *arguments = arguments
        return getattr(importlib.import_module(f"raycrnn.bench.{name}"), BENCHMARKS[name][0]), arguments
    module, name, _ = VERBS[verb]
    return getattr(importlib.import_module(f"raycrnn.{module}"), name), arguments


def is_recipe(tree: dict) -> bool:
    """Return whether a JSON object is a recipe of synthetic lines and not a configuration."""
    return "text" in tree


SHIPPED = ["config_template.json", *(f"examples/{each}" for each in ("*.json", "latin/*.json"))]


@pytest.mark.parametrize(
    "file", [path for pattern in SHIPPED for path in ROOT.glob(pattern)], ids=lambda path: path.name
)
def test_shipped_configurations_are_valid(file):
    tree = json.loads(file.read_text(encoding="utf-8"))
    read = recipe.load if is_recipe(tree) else training_plan.load if "sets" in tree else config.load
    read(file)


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").split()) <= MOST_WORDS_IN_README


# Commands


@each_page
def test_commands_parse_and_their_overrides_are_valid(page):
    for verb, arguments in raycrnn_commands(page):
        command, own = command_of(verb, arguments)
        command._parse(own, verb)
        if verb == "words":
            overrides = [word for word in own if OVERRIDE.match(word)]
            recipe.parse(config.with_overrides({"text": {"language": "en"}}, overrides, recipe.Recipe))
        overrides = [word for word in own if config.is_override(word)]
        config.parse({"data": {"csv_files_train": "x.csv"}}, overrides)


def test_the_documents_show_every_verb():
    shown = {verb for page in PAGES for verb, _ in raycrnn_commands(page)}
    assert shown >= VERBS.keys()


@pytest.mark.parametrize("language", ["bash", "console"])
def test_commands_are_found(tmp_path, language):
    prompt = "$ " if language == "console" else ""
    (tmp_path / "page.md").write_text(
        f"```{language}\n{prompt}ray job submit -- raycrnn train a.json model.size=half  # a comment\n```\n"
    )
    assert list(raycrnn_commands(tmp_path / "page.md")) == [("train", ["a.json", "model.size=half"])]


# Keys of the configuration


def literal(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


@each_page
def test_keys_exist_with_the_default_that_is_given(page):
    for key, default in re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", prose(page), re.MULTILINE):
        if key in config.fields():
            assert literal(default) == json.loads(json.dumps(config.fields()[key].default)), key
    groups = {key.partition(".")[0] for key in config.fields() if "." in key}
    for name in re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)[=`]", prose(page)):
        group, _, last = name.partition(".")
        # `key` stands for any key; the others are names of files.
        if group in groups and last not in ("key", "json", "yaml", "csv"):
            assert name in config.fields(), name


def hooks() -> ModuleType:
    specification = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def built(page: Path) -> str:
    """Return the text of a page as the site has it."""
    text = page.read_text(encoding="utf-8")
    return hooks().on_page_markdown(text) if page.parent == DOCS else text


def test_the_configuration_page_has_every_key():
    text = built(DOCS / "configuration.md")
    assert [key for key in config.fields() if f"| `{key}` |" not in text] == []


def test_the_page_on_synthetic_lines_has_every_key_of_a_recipe():
    text = built(DOCS / "words.md")
    assert [key for key in config.fields(recipe.Recipe) if f"| `{key}` |" not in text] == []


def test_the_data_page_lists_every_reason_for_a_rejection():
    text = prose(DOCS / "data.md")
    assert [reason for reason in rejections.REMEDIES if f"| `{reason}` |" not in text] == []


# Names and files

REPOSITORY_FOLDERS = ("raycrnn/", "tests/", "docs/", "deploy/", "examples/", "tune_configs/")


@each_page
def test_files_of_the_repository_exist(page):
    words = {word for line in shell_lines(page) for word in line.split()}
    named = {span for span in code_spans(page) if " " not in span} | words
    for name in named:
        if name.startswith(REPOSITORY_FOLDERS):
            assert (ROOT / name).exists(), name


@each_page
def test_modules_and_names_of_raycrnn_exist(page):
    for dotted, attribute in re.findall(r"\braycrnn((?:\.[a-z]\w*)+(?:\.[A-Z]\w*)?)(?::(\w+))?", built(page)):
        parts = dotted.strip(".").split(".")
        if parts[-1] in ("json", "git"):
            continue
        module = ROOT / "raycrnn"
        while parts and ((module / parts[0]).is_dir() or (module / f"{parts[0]}.py").is_file()):
            module /= parts.pop(0)
        names = [*parts, *filter(None, [attribute])]
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        assert len(names) <= 1, dotted
        assert all(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for name in names), dotted


# Links


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Python-Markdown makes them."""
    titles = re.findall(r"^#+ (.*)", FENCE.sub("", built(page)), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.is_file(), target
        assert not anchor or anchor in slugs(linked), target


def test_the_navigation_names_every_page():
    class Loader(yaml.SafeLoader):
        """Read MkDocs' own tags as text."""

    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for value in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from pages(value)

    assert set(pages(settings["nav"])) == {path.name for path in DOCS.glob("*.md")}


# Snippets


@each_page
def test_json_snippets_are_valid_configurations(page):
    for text in blocks(page, "json"):
        tree = json.loads(text)
        recipe.parse(tree) if is_recipe(tree) else config.parse(tree)


@each_page
def test_yaml_snippets_are_valid_search_files(page, tmp_path):
    for text in blocks(page, "yaml"):
        (tmp_path / "search.yaml").write_text(text, encoding="utf-8")
        search_file.load(tmp_path / "search.yaml", {"data": {"csv_files_train": "x.csv"}})


@each_page
def test_python_snippets_compile_and_their_imports_of_raycrnn_exist(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "raycrnn":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


def test_the_rows_in_the_readme_and_on_the_data_page_are_parsed_as_described():
    for page in (PAGES[0], DOCS / "data.md"):
        text = next(text for text in blocks(page, "text") if "quondam" in text)
        rows = [csv_files.parse_row(line, number) for number, line in enumerate(text.splitlines(), 1)]
        assert all(row.problem is None for row in rows)
        assert rows[1].label == "the second; a label may contain the delimiter"
        assert csv_files.split_label(rows[3].label) == ("d", "i", "e", " ", "quondam", " ", "1", "6")
        assert (rows[4].path, rows[4].label) == ("images/odd;name.png", "quoted by RFC 4180")


def test_the_example_of_an_augmentation_works():
    [text] = blocks(ROOT / "CONTRIBUTING.md", "python")
    names = {"Image": Image, "ImageEnhance": ImageEnhance, "np": np}
    exec(text, names)
    for mode in ("L", "RGB"):
        assert names["sharpen"](Image.new(mode, (40, 32)), 0.1, np.random.default_rng(0)).mode == mode
