"""A verb on the command line: a pydantic model whose fields are its arguments, parsed by pydantic-settings.

The class's docstring opens `--help`, a field's docstring is its line there. Results go to stdout, everything
else to stderr; errors that a user can mend are printed without a stack trace.
"""

import errno
import inspect
import io
import os
import sys
from abc import abstractmethod
from contextlib import redirect_stdout
from typing import ClassVar, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticUndefined
from pydantic_settings import CliSettingsSource

from raycrnn import console
from raycrnn.errors import RaycrnnError, UsageError


class Command(BaseModel):
    """Base of all verbs: subclasses declare arguments as fields and do their work in `run`."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        cli_hide_none_type=True,
        cli_implicit_flags="toggle",
        cli_kebab_case=True,
        cli_avoid_json=True,
        extra="forbid",
    )

    epilog: ClassVar[str] = ""
    """what --help prints after the arguments"""

    @abstractmethod
    def run(self) -> int | None:
        """Do the work; returns the exit code, None for 0. Raises `RaycrnnError`."""

    @classmethod
    def main(cls, arguments: list[str] | None = None, name: str | None = None) -> NoReturn:
        """Parse the arguments, run, and exit: 0 done, 1 data or run failed, 2 wrong usage, 130 Ctrl-C."""
        sys.exit(cls.call(sys.argv[1:] if arguments is None else arguments, name or cls.__name__.lower()))

    @classmethod
    def call(cls, arguments: list[str], name: str) -> int:
        """`main` without the exit. --help and arguments that do not parse still raise `SystemExit`."""
        for stream in (sys.stdout, sys.stderr):
            # A terminal of a narrow encoding gets what it lacks escaped.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        if sys.stdout is None:
            # It was closed before the start: what is printed goes nowhere.
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                return cls.call(arguments, name)
        try:
            with console.logging_to_stderr():
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
            # Who read our stdout (head, less) has gone; python must not complain while flushing it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.filename is None and error.errno == errno.ENOSPC:
                # stdout's; nothing is left to write at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"raycrnn {name}: {error.filename or 'stdout'}: {error.strerror or error}", file=sys.stderr)
            return 1

    @classmethod
    def _parse(cls, arguments: list[str], name: str) -> "Command":
        parser = CliSettingsSource(cls, cli_prog_name=f"raycrnn {name}").root_parser
        parser.description = inspect.cleandoc(cls.__doc__ or "")
        parser.epilog = cls.epilog
        # Intermixed: options may stand between the positional arguments, as key=value after --json.
        given = vars(parser.parse_intermixed_args(arguments))
        # Not by CliApp, which fills what is not given from environment variables of the fields' names, and splits
        # the items of a list at commas: `image.input_shape=[32,256]` would arrive as two.
        given = {argument: value for argument, value in given.items() if value is not PydanticUndefined}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = [f"{_argument(problem['loc'])}: {_message(problem)}" for problem in error.errors()]
            raise UsageError("; ".join(problems) + "; see --help") from None


def _argument(location: tuple[int | str, ...]) -> str:
    return str(location[0]).replace("_", "-") if location else "arguments"


def _message(problem: dict) -> str:
    given = "" if problem["type"] == "missing" else f", not {problem['input']!r}"
    return problem["msg"].removeprefix("Value error, ") + given
