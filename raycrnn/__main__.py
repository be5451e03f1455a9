"""The console script `raycrnn VERB ...` and `python -m raycrnn VERB ...`."""

import importlib
import sys
from typing import NoReturn

from raycrnn import __version__, cli

VERBS = {
    "train": ("train", "Train", "Train a recogniser from CSV files of images and labels."),
    "evaluate": ("evaluate", "Evaluate", "Score a model on labelled images."),
    "tune": ("tune", "Tune", "Search for a better configuration."),
    "predict": ("predict", "Predict", "Transcribe images."),
    "export": ("export", "Export", "Write a model as one file for ONNX Runtime or PyTorch."),
    "serve": ("serve", "Serve", "Transcribe images over HTTP, with a web page."),
    "split": ("tools.split", "Split", "Divide a CSV into training and evaluation rows."),
    "numbers": ("tools.mnist_numbers", "Numbers", "Make images of numbers from MNIST digits."),
}
"""The module, the class and one line of help of each verb. A module is imported when its verb is called."""


def main() -> NoReturn:
    """Run the verb that the command line names, and exit."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        print(__version__)
        sys.exit(0)
    lines = {verb: line for verb, (_, _, line) in VERBS.items()}
    verb = cli.choose("raycrnn", "verb", lines | {"bench": "Measure the speed of a part of raycrnn."}, arguments)
    if verb == "bench":
        from raycrnn.bench.__main__ import main as bench

        bench(arguments[1:])
    module, command, _ = VERBS[verb]
    try:
        # The import takes seconds if it imports torch.
        verb_class = getattr(importlib.import_module(f"raycrnn.{module}"), command)
    except KeyboardInterrupt:
        print(f"raycrnn {verb}: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(verb_class.call(arguments[1:], verb))


if __name__ == "__main__":
    main()
