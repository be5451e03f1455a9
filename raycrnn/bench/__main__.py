"""`python -m raycrnn.bench NAME`."""

import importlib
import sys
from typing import NoReturn

BENCHMARKS = {
    "ingest": ("Ingest", "decoding through Ray Data against a DataLoader and a plain loop"),
    "predict": ("PredictBench", "prediction through Ray Data against the bare forward pass"),
    "recover": ("Recover", "seconds lost to a killed worker and to a lost node"),
    "scale": ("Scale", "images a second and cost on n GPU nodes and m decoding nodes, forecast"),
    "serve": ("ServeBench", "requests a second and latencies, against a plain web server"),
    "start": ("Start", "from the command to the first training step, by part"),
    "step": ("Step", "the training step in auto precision against plain fp32"),
    "train": ("TrainBench", "training through Ray against the same loop on tensors in memory"),
}
"""Name, which is also the module's: its command and one line of help."""

USAGE = "usage: python -m raycrnn.bench NAME …\n\n" + "\n".join(
    f"  {name:<10}{line}" for name, (_, line) in BENCHMARKS.items()
)


def main(arguments: list[str] | None = None) -> NoReturn:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in BENCHMARKS:
        asked = arguments[:1] in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    name, *rest = arguments
    module = importlib.import_module(f"raycrnn.bench.{name}")
    getattr(module, BENCHMARKS[name][0]).main(rest, f"bench {name}")


if __name__ == "__main__":
    main()
