"""A verb on the command line: what it parses, what it prints where, and its exit code."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from raycrnn import console
from raycrnn.cli import Command
from raycrnn.console import defer_stop
from raycrnn.errors import RaycrnnError, UsageError


class Greet(Command):
    """Greet somebody.

    A second paragraph.
    """

    epilog: ClassVar[str] = "example: raycrnn greet you"

    name: CliPositionalArg[str]
    """whom to greet"""
    words: CliPositionalArg[list[str]] = Field(default_factory=list)
    """what to say"""
    how_often: Annotated[int, Field(ge=1)] = 1
    """times"""
    output: Path | None = None
    """where to write, 100 % sure"""
    as_json: Annotated[bool, Field(alias="json")] = False
    """as JSON"""
    language: str = "en"
    """which language"""

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        if language not in ("en", "de"):
            raise ValueError("must be en or de")
        return language

    def run(self) -> int | None:
        print(self.model_dump_json())


def parsed(*arguments: str) -> Greet:
    return Greet._parse(list(arguments), "greet")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["you"], {"name": "you", "words": []}),
        (["you", "--how-often", "3"], {"how_often": 3}),
        (["you", "--how-often=3"], {"how_often": 3}),
        (["--json", "you"], {"as_json": True, "name": "you"}),
        (["you"], {"as_json": False, "output": None, "how_often": 1, "language": "en"}),
        (["you", "--output", "a/b"], {"output": Path("a/b")}),
        (["you", "a", "b"], {"words": ["a", "b"]}),
        (["you", "--json", "a", "b"], {"words": ["a", "b"], "as_json": True}),
        (["you", "a", "--how-often", "2", "b"], {"words": ["a", "b"], "how_often": 2}),
        (["--how-often", "2", "you", "a"], {"name": "you", "words": ["a"], "how_often": 2}),
        (["you", "--", "--json"], {"words": ["--json"], "as_json": False}),
    ],
)
def test_options_may_stand_anywhere_among_the_positional_arguments(arguments, expected):
    assert parsed(*arguments).model_dump(include=set(expected)) == expected


WORDS = [
    "input_shape=[32,256]",
    "a,b",
    "[1,2]",
    '"quoted"',
    'a="b,c"',
    "12",
    "1e-3",
    "true",
    "None",
    "",
    "{}",
]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_arrives_as_it_was_typed(word):
    given = parsed(word, word, word)
    assert (given.name, given.words) == (word, [word, word])


def test_what_is_not_given_does_not_come_from_the_environment(monkeypatch):
    for field in ("name", "how_often", "language", "output", "json", "words"):
        monkeypatch.setenv(field, "7")
        monkeypatch.setenv(field.upper(), "7")
    assert parsed("you") == Greet(name="you")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["you", "--how-often", "x"], ["--how-often: ", "integer", "'x'"]),
        (["you", "--how-often", "0"], ["--how-often: input should be ", "greater than or equal to 1", "'0'"]),
        (["you", "--language", "fr"], ["--language: must be en or de, not 'fr'"]),
        (["you", "--language", "fr", "--how-often", "0"], ["--language: ", "--how-often: "]),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_exit_code_2(arguments, said, capsys):
    assert Greet.call(arguments, "greet") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("raycrnn greet: ")
    assert err.count("\n") == 1
    assert err.endswith("see --help\n")
    for words in said:
        assert words in err


@pytest.mark.parametrize("arguments", [[], ["you", "--nothing"], ["you", "--how"], ["you", "--how-often"]])
def test_arguments_that_do_not_parse_exit_with_2_and_the_usage_on_stderr(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        Greet.call(arguments, "greet")
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: raycrnn greet ")


def test_help_teaches_and_exits_with_0(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        Greet.main(["--help"], "greet")
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in (
        "usage: raycrnn greet ",
        "Greet somebody.\n\nA second paragraph.",
        "whom to greet",
        "what to say",
        "--how-often N",
        "times [default: 1]",
        "--output FILE",
        "--json",
        "100 % sure",
        "example: raycrnn greet you",
    ):
        assert words in out


class Ends(Command):
    """Ends as it is told to."""

    def run(self) -> int | None:
        raise self.how

    how: ClassVar[BaseException]


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        (RaycrnnError("the data are bad"), 1, "raycrnn ends: the data are bad\n"),
        (UsageError("the key is wrong"), 2, "raycrnn ends: the key is wrong\n"),
        (KeyboardInterrupt(), 130, "raycrnn ends: stopped\n"),
    ],
)
def test_an_error_a_user_can_mend_is_a_line_on_stderr_and_an_exit_code(how, code, said, capsys, monkeypatch):
    monkeypatch.setattr(Ends, "how", how, raising=False)
    with pytest.raises(SystemExit) as caught:
        Ends.main([])
    assert caught.value.code == code
    assert capsys.readouterr() == ("", said)


def test_an_error_of_ours_keeps_its_stack_trace(monkeypatch):
    monkeypatch.setattr(Ends, "how", ZeroDivisionError(), raising=False)
    with pytest.raises(ZeroDivisionError):
        Ends.call([], "ends")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_run_returns(returned, code, monkeypatch, capsys):
    monkeypatch.setattr(Greet, "run", lambda self: returned)
    with pytest.raises(SystemExit) as caught:
        Greet.main(["you"])
    assert caught.value.code == code
    assert capsys.readouterr() == ("", "")


def test_the_arguments_are_those_of_the_process_when_none_are_given(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["greet", "world", "--how-often", "2"])
    with pytest.raises(SystemExit):
        Greet.main()
    assert Greet.model_validate_json(capsys.readouterr().out, by_name=True).how_often == 2


def test_a_reader_that_goes_away_causes_no_stack_trace():
    program = """
from raycrnn.cli import Command
class Chatter(Command):
    def run(self):
        while True:
            print("word " * 100)
Chatter.main([])
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe) as process:
        assert process.stdout.read(4) == b"word"
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == b""


HELLO = """
from raycrnn.cli import Command
class Hello(Command):
    def run(self):
        print("± hello")
Hello.main([], "hello")
"""


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{python} -c '{code}' > /dev/full", 1, "raycrnn hello: stdout: No space left on device"),
        ("{python} -c '{code}' >&-", 0, ""),
        ("{python} -c '{code}' 2>&-", 0, ""),
        ("PYTHONIOENCODING=ascii {python} -c '{code}'", 0, ""),
    ],
)
def test_a_stream_that_is_full_closed_or_narrow_causes_no_stack_trace(shell, code, said):
    command = shell.format(python=sys.executable, code=HELLO)
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr.strip()) == (code, said)


def test_ctrl_c_is_noted_even_in_a_callback_and_the_second_one_raises(monkeypatch):
    """An exception that comes in a finaliser is printed and lost."""
    monkeypatch.setattr(console, "SECONDS_OF_ONE_REQUEST", -1.0)

    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), defer_stop() as stop:
        assert not stop.requested
        Finalised()
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_sigterm_requests_a_stop_and_a_second_signal_raises(monkeypatch, second):
    monkeypatch.setattr(console, "SECONDS_OF_ONE_REQUEST", -1.0)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), defer_stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(0)
        os.kill(os.getpid(), second)
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_come_together_are_one_request(monkeypatch):
    monkeypatch.setattr(console, "SECONDS_OF_ONE_REQUEST", 60.0)
    with defer_stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_sigterm_ends_a_command_that_does_not_defer_it_as_ctrl_c_does(capsys):
    class Killed(Command):
        def run(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert Killed.call([], "killed") == 130
    assert capsys.readouterr().err == "raycrnn killed: stopped\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_are_left_alone_outside_the_main_thread():
    """Python raises an error if another thread sets a handler."""
    found = []

    def defer() -> None:
        with defer_stop() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=defer)
    thread.start()
    thread.join()
    assert found == [False]
