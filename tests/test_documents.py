"""What the README and the examples say is so."""

import json
import re
import shlex
from pathlib import Path

import pytest

from raycrnn import config
from raycrnn.__main__ import VERBS
from raycrnn.data import csv_files

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(README.split("```")[1::2])


@pytest.mark.parametrize("path", ["config_template.json", *(p.name for p in (ROOT / "examples").glob("*.json"))])
def test_shipped_configurations_are_valid(path):
    config.load(next(ROOT.rglob(path)))


def literal(text: str) -> object:
    try:
        return None if text == "none" else json.loads(text)
    except ValueError:
        return text


def test_every_key_that_the_readme_names_exists_with_the_default_it_gives():
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", README, re.MULTILINE)
    assert len(rows) > 5
    for key, default in rows:
        assert literal(default.strip("`")) == json.loads(json.dumps(config.fields()[key].default)), key
    named = set(re.findall(r"`(?:[a-z_]+\.)+[a-z_]+(?==|`)", README))
    groups = {key.partition(".")[0] for key in config.fields()}
    for name in (name.strip("`") for name in named):
        if name.partition(".")[0] in groups and not name.endswith((".py", ".json", ".csv", ".jsonl", ".yaml")):
            assert name in config.fields(), name


def test_every_command_of_the_readme_is_a_verb():
    commands = re.findall(r"^(?:python -m raycrnn\.|raycrnn )(\w+)", CODE, re.MULTILINE)
    assert len(commands) > 4
    assert set(commands) <= {*VERBS, "bench"}


def test_the_readmes_rows_are_read_as_it_says():
    block = README.split("## Your own data in five lines")[1].split("```")[1]
    rows = [csv_files.parse_row(line, number) for number, line in enumerate(block.strip().splitlines(), 1)]
    assert all(row.problem is None for row in rows)
    assert rows[1].label == "the second; a label may hold the delimiter"
    assert csv_files.split_label(rows[3].label) == ("d", "i", "e", " ", "quondam", " ", "1", "6")
    assert (rows[4].path, rows[4].label) == ("images/odd;name.png", "quoted by RFC 4180")


def test_the_readmes_overrides_are_valid():
    for line in re.findall(r"^(?:python -m raycrnn\.train|raycrnn train) .*", README, re.MULTILINE):
        overrides = [word for word in shlex.split(line.split("#")[0]) if "=" in word]
        config.parse({"data": {"csv_files_train": "x.csv"}}, overrides)
