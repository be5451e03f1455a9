"""The verb tune: from a configuration and a search file to a better model and its configuration, on Ray Tune."""

import json
import logging
import time
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import config
from raycrnn.cli import Command, Metavar
from raycrnn.config import Configuration, describe_keys
from raycrnn.errors import UsageError
from raycrnn.tuning.search_space import Search

# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("raycrnn.tune")


class Tune(Command):
    """Search for a better configuration: train with other values, and with the configuration as it is for comparison.

    Writes results.csv, report.html, best_config.json (for train) and best/model (for the other verbs) to
    output_model_dir. Ctrl-C or SIGTERM stops after the current training steps; the same command with --resume
    continues.
    """

    config: CliPositionalArg[str]
    """Configuration to start from, a JSON file."""
    search: CliPositionalArg[str]
    """Search file: YAML with the keys below, such as those in tune_configs/."""
    overrides: CliPositionalArg[Annotated[list[str], Metavar("KEY=VALUE")]] = Field([])
    """Values that replace those of CONFIG, such as output_model_dir=search1 training.n_epochs=20."""
    resume: bool = False
    """Resume the search in output_model_dir. Finished trials are not repeated."""
    model: Annotated[str | None, Metavar("MODEL")] = None
    """Model directory, latin or latin48, for a search over decoding.* alone, which decodes the output of this model."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else a local Ray."""
    json_line: bool = Field(False, validation_alias="json")
    """Also print the result as a JSON object, on the last line of stdout."""

    epilog: ClassVar[str] = "Keys of the search file:\n\n" + describe_keys(Search)

    def run(self) -> int:
        started = time.time() - time.process_time()
        from raycrnn.tuning import run, search_file

        tree = config.grouped(config.read_json_object(self.config), self.overrides, self.config)
        search, base = search_file.load(self.search, tree)
        both = [text for text in self.overrides if text.partition("=")[0] in search.fixed]
        if both:
            raise UsageError(f"{both[0]}: {self.search} also sets it under fixed: remove one of the two")
        _check(search, config.parse(base, origin=self.config), self.model, self.resume)
        import optuna

        # Optuna logs each study by default.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if search.decoding_only and self.model is not None:
            from raycrnn.model.model_files import as_argument
            from raycrnn.tuning import decoding_search

            result = decoding_search.search(search, base, as_argument(self.model))
        else:
            result = run.tune(search, base, self.resume, self.address, started)
        if result.experiment.best() is None:
            return 130
        print(result.describe(tree))
        if result.interrupted:
            logger.info("stopped; the same command with --resume continues")
        if self.json_line:
            print(json.dumps(result.as_json()))
        return 130 if result.interrupted else 0


def _check(search: Search, configuration: Configuration, model: str | None, resume: bool) -> None:
    """Check that search, configuration and options fit together. Raises `UsageError`."""
    if configuration.training.folds:
        raise UsageError("a search trains one model in each trial: remove training.folds from the configuration")
    if not configuration.data.csv_files_eval:
        raise UsageError("a search needs data.csv_files_eval, to compare the trials")
    if search.decoding_only and model is None:
        raise UsageError("a search over decoding.* alone decodes the output of a trained model: pass it with --model")
    if search.decoding_only and "loss" in search.metric:
        raise UsageError("metric: loss: decoding does not change it: choose cer, wer, accuracy or speed")
    if search.decoding_only and resume:
        raise UsageError("a search over decoding.* alone takes seconds and is not resumed: choose another directory")
    if model is not None and not search.decoding_only:
        raise UsageError("--model is for a search over decoding.* alone; other searches train their trials")


if __name__ == "__main__":
    Tune.main()
