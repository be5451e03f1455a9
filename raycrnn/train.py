"""The verb train: from a configuration to a model directory, on Ray."""

import json
import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import config, storage
from raycrnn.cli import Command, Metavar
from raycrnn.config import Configuration, describe_keys

if TYPE_CHECKING:
    from raycrnn.metrics.error_rates import Counts
    from raycrnn.training.monitor import TrainingResult


class Train(Command):
    """Train a text recogniser from CSV files of images and labels.

    Writes the best model to output_model_dir/model, and checkpoints and TensorBoard logs next to it. Ctrl-C or SIGTERM
    saves a checkpoint and stops; the same command with restore_model=true resumes from there. With training.folds=5,
    five models are trained, each without another part of the rows, which vote and list labels that are likely wrong.
    """

    config: CliPositionalArg[str]
    """Configuration: a JSON file with the keys below, or one of tf-crnn with its flat keys."""
    overrides: CliPositionalArg[Annotated[list[str], Metavar("KEY=VALUE")]] = Field([])
    """Values that replace those of CONFIG, such as training.learning_rate=3e-4 output_model_dir=run2."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else a local Ray."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    epilog: ClassVar[str] = "Keys of the configuration:\n\n" + describe_keys()

    def run(self) -> int:
        # The time budget includes the start of the interpreter and the imports, which take mostly CPU time.
        started = time.time() - time.process_time()
        configuration = config.load(self.config, self.overrides)
        if configuration.training.folds and not configuration.training.fold:
            return self._train_folds(configuration)
        from raycrnn.training import run

        outcome = run.train(configuration, self.address, started)
        if "stopped" in outcome:
            return 130
        self._print(configuration, outcome)
        return 0

    def _train_folds(self, configuration: Configuration) -> int:
        from raycrnn.folds import run as folds

        result = folds.train(configuration, self.address)
        if result is None:
            return 130
        output = configuration.output_model_dir
        model = storage.join(output, "model")
        print(f"rows held back: {_describe(_rates(result.counts))}")
        if result.vote is not None:
            print(f"vote on data.csv_files_eval: {_describe(_rates(result.vote.counts))}")
        print(f"models: {model}")
        print(f"suspect labels: {storage.join(output, 'suspects.html')} and suspects.csv")
        print(f"next:  raycrnn predict {shlex.quote(model)} images/ -o transcriptions.csv")
        if self.json_line:
            values = {"model": model, "folds": result.folds, "held_back": _rates(result.counts)}
            vote = {} if result.vote is None else {"vote": result.vote.as_json()}
            print(json.dumps({**values, **vote}))
        return 0

    def _print(self, configuration: Configuration, outcome: "TrainingResult") -> None:
        output = configuration.output_model_dir
        model = storage.join(output, "model")
        best = outcome["best"]
        if "cer" in best:
            print(f"best: {_describe(best)} at epoch {best['epoch']:g}")
            if best["step"] == 0:
                print("      the model that training started from: a lower training.learning_rate may improve it")
        print(f"model: {model}")
        print(f"next:  raycrnn predict {shlex.quote(model)} images/ -o transcriptions.csv")
        print(f"       tensorboard --logdir {shlex.quote(storage.join(output, 'logs'))}")
        if self.json_line:
            print(json.dumps({"model": str(model), **outcome}))


def _rates(counts: "Counts") -> dict[str, float]:
    return {"cer": counts.cer, "wer": counts.wer, "accuracy": counts.accuracy}


def _describe(scores: Mapping[str, float]) -> str:
    cer, wer, exact = (100 * scores[name] for name in ("cer", "wer", "accuracy"))
    return f"CER {cer:.2f} %, WER {wer:.2f} %, exact {exact:.1f} %"


if __name__ == "__main__":
    Train.main()
