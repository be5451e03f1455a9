"""`python -m raycrnn VERB …` and the console script `raycrnn VERB …`."""

import importlib
import sys
from typing import NoReturn

from raycrnn import __version__

VERBS = {
    "train": ("train", "Train", "train a recogniser from CSV files of images and labels"),
    "evaluate": ("evaluate", "Evaluate", "score a model on labelled images"),
    "tune": ("tune", "Tune", "search for a better configuration"),
    "predict": ("predict", "Predict", "transcribe images"),
    "export": ("export", "Export", "write a model as one file: ONNX or torch.export"),
    "serve": ("serve", "Serve", "read images over HTTP, with a page for people"),
    "split": ("tools.split", "Split", "divide a CSV into training and evaluation rows"),
    "numbers": ("tools.mnist_numbers", "Numbers", "make images of numbers from MNIST digits"),
}
"""Verb: its module, its class there, one line of help. Modules are imported when their verb is called."""

USAGE = "usage: raycrnn VERB …\n\n" + "\n".join(f"  {verb:<10}{line}" for verb, (_, _, line) in VERBS.items())
USAGE += "\n  bench     measure a figure beside its limit"


def main() -> NoReturn:
    verb, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if verb in ("-h", "--help"):
        print(f"{USAGE}\n\nraycrnn VERB --help tells more of each.")
        sys.exit(0)
    if verb == "--version":
        print(__version__)
        sys.exit(0)
    if verb == "bench":
        importlib.import_module("raycrnn.bench.__main__").main(arguments)
    if verb not in VERBS:
        print(f"{USAGE}\n\nraycrnn: {f'no verb {verb!r}' if verb else 'a verb is missing'}", file=sys.stderr)
        sys.exit(2)
    module, command, _ = VERBS[verb]
    getattr(importlib.import_module(f"raycrnn.{module}"), command).main(arguments, verb)


if __name__ == "__main__":
    main()
