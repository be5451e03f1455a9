"""The console script: every verb has a --help that teaches, a wrong one is told."""

import importlib
import subprocess
import sys

import pytest

from raycrnn import __version__, config
from raycrnn.__main__ import VERBS
from raycrnn.bench.__main__ import BENCHMARKS


def raycrnn(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "raycrnn", *arguments], capture_output=True, text=True)


def test_help_names_every_verb_on_stdout():
    done = raycrnn("--help")
    assert done.returncode == 0
    assert all(f"\n  {verb}" in done.stdout for verb in [*VERBS, "bench"])
    assert raycrnn("--version").stdout.strip() == __version__


@pytest.mark.parametrize("arguments", [[], ["trian"], ["bench"], ["bench", "nothing"]])
def test_a_wrong_or_missing_verb_exits_with_2_and_the_usage_on_stderr(arguments):
    done = raycrnn(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_each_argument(verb, capsys):
    module, name, _ = VERBS[verb]
    command = getattr(importlib.import_module(f"raycrnn.{module}"), name)
    with pytest.raises(SystemExit) as exit:
        command.call(["--help"], verb)
    assert exit.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in command.model_fields.values():
        assert " ".join(field.description.split())[:60] in shown


def test_help_of_train_lists_every_key_of_the_configuration(capsys):
    from raycrnn.train import Train

    with pytest.raises(SystemExit):
        Train.call(["--help"], "train")
    lines = capsys.readouterr().out.splitlines()
    for key in config.fields():
        assert any(line.startswith(f"  {key} ") for line in lines), key


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_of_a_benchmark_says_its_limit(name):
    assert "limit" in raycrnn("bench", name, "--help").stdout.lower()
