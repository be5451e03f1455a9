"""The verb train: from a configuration to a model directory, on Ray."""

import json
import time
from typing import ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import config, storage
from raycrnn.cli import Command
from raycrnn.config import Configuration, describe_keys
from raycrnn.training import run


class Train(Command):
    """Train a text recogniser from CSV files of images and labels.

    Writes the best model to output_model_dir/model, checkpoints and TensorBoard logs beside it. Ctrl-C saves a
    checkpoint and stops; restore_model=true goes on from there. CONFIG is JSON (grouped as below, or tf-crnn's
    flat keys); each OVERRIDE is key=value.
    """

    config: CliPositionalArg[str]
    """the configuration, a JSON file"""
    overrides: CliPositionalArg[list[str]] = Field([])
    """key=value, such as training.learning_rate=3e-4 output_model_dir=run2"""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else a local Ray of its own"""
    json_line: bool = Field(False, validation_alias="json")
    """print one JSON object as the last line of stdout"""

    epilog: ClassVar[str] = "Keys of the configuration:\n\n" + describe_keys()

    def run(self) -> int:
        # The interpreter's start and the imports were mostly computing: the budget counts them too.
        started = time.time() - time.process_time()
        configuration = config.load(self.config, self.overrides)
        outcome = run.train(configuration, self.address, started)
        if "stopped" in outcome:
            return 130
        self._print(configuration, outcome)
        return 0

    def _print(self, configuration: Configuration, outcome: dict) -> None:
        output = configuration.output_model_dir
        model = storage.join(output, "model")
        best = outcome["best"]
        if "cer" in best:
            cer, wer, exact = (100 * best[name] for name in ("cer", "wer", "accuracy"))
            print(f"best: CER {cer:.2f} %, WER {wer:.2f} %, exact {exact:.1f} % at epoch {best['epoch']:g}")
        print(f"model: {model}")
        print(f"next:  python -m raycrnn.predict {model} images/ -o transcriptions.csv")
        print(f"       tensorboard --logdir {storage.join(output, 'logs')}")
        if self.json_line:
            print(json.dumps({"model": str(model), **outcome}))


if __name__ == "__main__":
    Train.main()
