"""The console script `raycrnn VERB ...` and `python -m raycrnn VERB ...`."""

import importlib
import sys
from typing import NoReturn

from raycrnn import __version__, cli


def main() -> NoReturn:
    """Run the verb that the command line names, and exit."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        print(__version__)
        sys.exit(0)
    lines = {verb: line for verb, (_, _, line) in cli.VERBS.items()}
    verb = cli.choose("raycrnn", "verb", lines | {"bench": "Measure the speed of a part of raycrnn."}, arguments)
    if verb == "bench":
        from raycrnn.bench.__main__ import main as bench

        bench(arguments[1:])
    module, command, _ = cli.VERBS[verb]
    try:
        # The import takes seconds if it imports torch.
        verb_class = getattr(importlib.import_module(f"raycrnn.{module}"), command)
    except KeyboardInterrupt:
        print(f"raycrnn {verb}: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(verb_class.call(arguments[1:], verb))


if __name__ == "__main__":
    main()
