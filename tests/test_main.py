"""The console script: the help of each verb, and messages about verbs that do not exist."""

import importlib
import re
import subprocess
import sys

import pytest

from raycrnn import __version__, config
from raycrnn.bench.__main__ import BENCHMARKS
from raycrnn.bench.__main__ import main as bench
from raycrnn.cli import VERBS


def raycrnn(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "raycrnn", *arguments], capture_output=True, text=True)


def test_help_names_every_verb_on_stdout():
    done = raycrnn("--help")
    assert done.returncode == 0
    assert all(f"\n  {verb}" in done.stdout for verb in [*VERBS, "bench"])
    assert raycrnn("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "usage", "message"),
    [
        ([], "usage: raycrnn VERB ...\n", "raycrnn: a verb is required"),
        (["bench"], "usage: raycrnn bench BENCHMARK ...\n", "raycrnn bench: a benchmark is required"),
        (["trian"], "", "raycrnn: unknown verb 'trian'; did you mean train?"),
        (["xyz"], "", "raycrnn: unknown verb 'xyz'; `raycrnn --help` lists all"),
        (["bench", "strat"], "", "raycrnn bench: unknown benchmark 'strat'; did you mean start?"),
        (["bench", "nosuch"], "", "raycrnn bench: unknown benchmark 'nosuch'; `raycrnn bench --help` lists all"),
    ],
)
def test_a_missing_or_unknown_verb_exits_with_2_and_a_message_on_stderr(arguments, usage, message):
    done = raycrnn(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(usage)
    assert done.stderr.splitlines()[-1] == message
    assert done.stdout == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_each_argument(verb, capsys):
    module, name, _ = VERBS[verb]
    command = getattr(importlib.import_module(f"raycrnn.{module}"), name)
    with pytest.raises(SystemExit) as exit:
        command.call(["--help"], verb)
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for field in command.model_fields.values():
        description = " ".join(field.description.split())
        assert description[0].isupper() or "=" in description
        assert description.endswith(".")
        assert description[:60] in " ".join(text.split())
    for unwanted in ("default: None", "default: []", "default: False", "default factory", "null]"):
        assert unwanted not in text
    assert not re.search(r"-\w+ (str|int|float|Path|list)", text)


HEAVY = {"PIL", "fastapi", "numpy", "optuna", "pandas", "pyarrow", "rapidfuzz", "ray", "torch"}


def test_help_and_wrong_usage_need_no_large_library():
    program = f"""
import contextlib, io, sys
from raycrnn import __main__
for verb in {list(VERBS)!r}:
    for arguments in (["--help"], ["--no-such-option"]):
        sys.argv = ["raycrnn", verb, *arguments]
        with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            __main__.main()
print("loaded:", *sorted({HEAVY!r} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert done.stdout.count("usage: ") == len(VERBS)


def test_help_of_train_lists_every_key_of_the_configuration(capsys):
    from raycrnn.train import Train

    with pytest.raises(SystemExit):
        Train.call(["--help"], "train")
    lines = capsys.readouterr().out.splitlines()
    for key in config.fields():
        assert any(line.split(" [")[0].removesuffix(" (required)") == f"  {key}" for line in lines), key


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_of_a_benchmark_says_its_limit(name, capsys):
    with pytest.raises(SystemExit) as exit:
        bench([name, "--help"])
    assert exit.value.code == 0
    assert "limit" in capsys.readouterr().out.lower()
