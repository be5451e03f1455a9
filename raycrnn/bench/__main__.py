"""The benchmarks on the command line: `raycrnn bench NAME ...` or `python -m raycrnn.bench NAME ...`."""

import importlib
import sys
from typing import NoReturn

from raycrnn import cli

BENCHMARKS = {
    "accuracy": ("Accuracy", "Error rates of settings on several sets, over several seeds."),
    "curve": ("Curve", "The error rate by the number of training rows."),
    "decode": ("DecodeBench", "Beam search, compared with greedy decoding and other decoders."),
    "ingest": ("Ingest", "Decoding with Ray Data, compared with a DataLoader and a plain loop."),
    "predict": ("PredictBench", "Prediction with Ray Data, compared with the bare forward pass."),
    "recover": ("Recover", "Seconds lost when a worker is killed and when a node is lost."),
    "scale": ("Scale", "Forecast of images per second and cost on GPU nodes and decoding nodes."),
    "serve": ("ServeBench", "Requests per second and latency, compared with a plain web server."),
    "start": ("Start", "Seconds from commands to their first results, compared with imports."),
    "step": ("Step", "The training step in each precision, compared with a matrix product."),
    "train": ("TrainBench", "Training with Ray, compared with the same loop on tensors in memory."),
}
"""The class and one line of help of each benchmark; its name is also the name of its module."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the benchmark that the first argument names, and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    lines = {name: line for name, (_, line) in BENCHMARKS.items()}
    name = cli.choose("raycrnn bench", "benchmark", lines, arguments)
    module = importlib.import_module(f"raycrnn.bench.{name}")
    sys.exit(getattr(module, BENCHMARKS[name][0]).call(arguments[1:], f"bench {name}"))


if __name__ == "__main__":
    main()
