"""A verb on the command line: a pydantic model whose fields are the arguments, parsed by pydantic-settings.

The docstring of the class introduces `--help`, and the docstring of a field describes its argument there. Results go to
stdout and everything else to stderr. Errors that a user can correct are printed without a stack trace.

Alternatives: cyclopts starts a verb as fast, but takes 0.1 s longer for `--help` and reports a wrong value in the
several lines of pydantic's format; typer supports neither pydantic models nor their limits.
"""

import argparse
import difflib
import errno
import inspect
import io
import os
import sys
import textwrap
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import AliasChoices, BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_settings import CliSettingsSource, SettingsConfigDict

from raycrnn import console
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.storage import is_uri, with_home

VERBS = {
    "check": ("check", "Check", "Find what is wrong with data before training."),
    "train": ("train", "Train", "Train a recogniser from CSV files of images and labels."),
    "evaluate": ("evaluate", "Evaluate", "Score a model on labelled images."),
    "tune": ("tune", "Tune", "Search for a better configuration."),
    "predict": ("predict", "Predict", "Transcribe images."),
    "export": ("export", "Export", "Write a model as one file for ONNX Runtime or PyTorch."),
    "serve": ("serve", "Serve", "Transcribe images over HTTP, with a web page."),
    "alphabet": ("tools.alphabet", "AlphabetTool", "Build, show, merge and compare alphabets."),
    "labels": ("tools.labels", "Labels", "Rewrite the labels of a CSV."),
    "lm": ("tools.lm", "LanguageModelTool", "Build and show language models."),
    "convert": ("tools.convert.verb", "Convert", "Import images and labels of other tools, or pack them."),
    "split": ("tools.split", "Split", "Divide a CSV into training and evaluation rows."),
    "words": ("tools.words", "Words", "Draw synthetic text lines with labels."),
    "numbers": ("tools.numbers", "Numbers", "Make images of numbers from MNIST digits."),
}
"""The module, the class and one line of help of each verb. A module is imported when its verb is called."""

METAVARS = {"str": "TEXT", "int": "N", "float": "NUMBER", "Path": "FILE", "list[str]": "TEXT"}


def _check_local(value: object) -> object:
    # Path would make s3:/ of s3://.
    if isinstance(value, str) and is_uri(value):
        raise ValueError("must be a local file: copy it to a disk first, and upload the result if you need it there")
    return value


LocalPath = Annotated[Path, BeforeValidator(_check_local)]
"""A path on a local disk; URIs are refused."""


@dataclass(frozen=True)
class Metavar:
    """The name of an argument's value in `--help`, as in `Annotated[str, Metavar("DIR")]`."""

    name: str


class Command(BaseModel):
    """Base class of all verbs: subclasses declare their arguments as fields and do their work in `run`."""

    model_config = SettingsConfigDict(
        use_attribute_docstrings=True,
        cli_hide_none_type=True,
        cli_implicit_flags="toggle",
        cli_kebab_case=True,
        cli_avoid_json=True,
        extra="forbid",
    )

    epilog: ClassVar[str] = ""
    """The text that `--help` prints after the arguments; indented lines are not joined."""

    @abstractmethod
    def run(self) -> int | None:
        """Run the command and return the exit code; None means 0. May raise `RaycrnnError`."""

    @classmethod
    def main(cls, arguments: list[str] | None = None, name: str | None = None) -> NoReturn:
        """Parse the arguments, run, and exit.

        The exit codes are 0 for success, 1 if the data or the run failed, 2 for wrong usage or configuration, 3 if
        `check` found what costs samples, and 130 after Ctrl-C or SIGTERM.
        """
        sys.exit(cls.call(sys.argv[1:] if arguments is None else arguments, name or cls.__name__.lower()))

    @classmethod
    def call(cls, arguments: list[str], name: str) -> int:
        """Do the same as `main`, but return the exit code. `--help` and parsing errors still raise `SystemExit`."""
        for stream in (sys.stdout, sys.stderr):
            # Characters that the terminal's encoding lacks are escaped.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        if sys.stdout is None or sys.stderr is None:
            # One of them was closed before the start.
            with (
                open(os.devnull, "w") as null,
                redirect_stdout(sys.stdout or null),
                redirect_stderr(sys.stderr or null),
            ):
                return cls.call(arguments, name)
        try:
            with console.logging_to_stderr(), console.stop_on_sigterm():
                code = cls._parse(arguments, name).run() or 0
            sys.stdout.flush()
            return code
        except RaycrnnError as error:
            print(f"raycrnn {name}: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print(f"raycrnn {name}: stopped", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader of stdout (head, less) has ended. Python flushes stdout at exit and must not fail there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.filename is None and error.errno == errno.ENOSPC:
                # stdout is on a full disk. What is buffered must not be flushed at exit, which would fail.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"raycrnn {name}: {error.filename or 'stdout'}: {error.strerror or error}", file=sys.stderr)
            return 1

    @classmethod
    def _parse(cls, arguments: Sequence[str], name: str) -> "Command":
        # Intermixed: options may stand between the positional arguments, as in `key=value --json key=value`.
        parser = cls._parser(name)
        namespace = vars(parser.parse_intermixed_args(arguments))
        # CliApp would fill missing arguments from environment variables of the same name, and split list items at
        # commas: `image.input_shape=[32,256]` would become two.
        given = {argument: _with_home(value) for argument, value in namespace.items() if value is not PydanticUndefined}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = [f"{_argument(parser, problem)}: {_message(problem)}" for problem in error.errors()]
            raise UsageError("; ".join(problems) + "; see --help") from None

    @classmethod
    def _parser(cls, name: str) -> argparse.ArgumentParser:
        # It is typed for BaseSettings, but works with any model.
        source: CliSettingsSource[Any] = CliSettingsSource(
            cls,  # type: ignore[arg-type]
            cli_prog_name=f"raycrnn {name}",
            formatter_class=_HelpFormatter,
        )
        parser: argparse.ArgumentParser = source.root_parser
        parser.description = inspect.cleandoc(cls.__doc__ or "")
        parser.epilog = cls.epilog
        fields = {_destination(name, field): field for name, field in cls.model_fields.items()}
        for action in parser._actions:
            if action.dest == "help":
                action.help = "Show this help and exit."
            elif action.dest in fields:
                field = fields[action.dest]
                action.help = _help(field)
                action.metavar = _metavar(field, action)
        return parser


class _HelpFormatter(argparse.HelpFormatter):
    """Wrap descriptions to the width of the terminal. The lines of a paragraph are joined, except indented ones."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for paragraph in text.split("\n\n"):
            joined: list[str] = []
            for line in paragraph.split("\n"):
                if joined and not line.startswith(" ") and not joined[-1].startswith(" "):
                    joined[-1] += f" {line}"
                else:
                    joined.append(line)
            for line in joined:
                margin = indent + line[: len(line) - len(line.lstrip())]
                filled = textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=margin)
                lines += filled or [""]
            lines.append("")
        return "\n".join(lines[:-1])


def _with_home(value: object) -> object:
    """Expand `~/` at the start of a value, which a shell does not do in `--output=~/out`."""
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return with_home(value) if isinstance(value, str) else value


def _destination(name: str, field: FieldInfo) -> str:
    """Return the name under which argparse stores the argument of a field: its first alias, if it has one."""
    alias = field.validation_alias
    return str((alias.choices[0] if isinstance(alias, AliasChoices) else alias) or name)


def _help(field: FieldInfo) -> str:
    """Return the docstring of a field on one line, with its default unless that is False, empty or None."""
    text = " ".join((field.description or "").split())
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if default is not None and default is not False and default not in ("", [], ()):
        text += f" [default: {default}]"
    return text.replace("%", "%%")


def _metavar(field: FieldInfo, action: argparse.Action) -> str | None:
    names = [item.name for item in field.metadata if isinstance(item, Metavar)]
    metavar = action.metavar if isinstance(action.metavar, str) else None
    return names[0] if names else METAVARS.get(metavar or "", metavar)


def _argument(parser: argparse.ArgumentParser, problem: ErrorDetails) -> str:
    """Return the argument of a problem as `--help` shows it."""
    for action in parser._actions:
        if problem["loc"] and action.dest == problem["loc"][0]:
            return action.option_strings[-1] if action.option_strings else str(action.metavar)
    return "arguments"


def _message(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if problem["type"] == "missing" else f", not {problem['input']!r}"
    return message[0].lower() + message[1:] + value


def parse_command(commands: Mapping[str, tuple[type[Command], str]], arguments: Sequence[str], name: str) -> Command:
    """Parse the arguments of a verb whose first argument is a command of its own. It exits like `choose`.

    Args:
        commands: The class and a line of help of each command.
        arguments: The arguments of the verb.
        name: Name of the verb.
    """
    lines = {command: line for command, (_, line) in commands.items()}
    chosen = choose(f"raycrnn {name}", "command", lines, arguments)
    return commands[chosen][0]._parse(arguments[1:], f"{name} {chosen}")


def choose(program: str, kind: str, choices: Mapping[str, str], arguments: Sequence[str]) -> str:
    """Return the first argument if it is one of the choices.

    Otherwise exit: with 0 after `--help`, which lists the choices, or with 2 and a message on stderr.

    Args:
        program: The command before the argument, such as "raycrnn".
        kind: What is chosen, such as "verb".
        choices: A line of help by name.
    """
    usage = f"usage: {program} {kind.upper()} ...\n\n" + "\n".join(f"  {name:<10}{choices[name]}" for name in choices)
    help_text = f"`{program} {kind.upper()} --help` describes one {kind} and its arguments."
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        print(f"{usage}\n\n{help_text}")
        sys.exit(0)
    if not name:
        print(f"{usage}\n\n{program}: a {kind} is required", file=sys.stderr)
        sys.exit(2)
    if name not in choices:
        close = difflib.get_close_matches(name, choices, n=1)
        hint = f"did you mean {close[0]}?" if close else f"`{program} --help` lists all"
        print(f"{program}: unknown {kind} {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    return name
