"""The verb tune: from a configuration and a search file to a better model and its configuration, on Ray Tune."""

import json
import logging
import time
from typing import ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import config
from raycrnn.cli import Command
from raycrnn.config import Configuration, describe_keys
from raycrnn.errors import UsageError
from raycrnn.tuning import run, search_file
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


class Tune(Command):
    """Search for a better configuration: trials of other values, each a training, beside the configuration as it is.

    SEARCH is a YAML file such as those in tune_configs/. Writes to output_model_dir: results.csv, report.html,
    best_config.json, which train takes as it is, and best/model, which the other verbs take. Ctrl-C stops after
    the steps that run; --resume goes on.
    """

    config: CliPositionalArg[str]
    """the configuration to start from, a JSON file"""
    search: CliPositionalArg[str]
    """the search file"""
    overrides: CliPositionalArg[list[str]] = Field([])
    """key=value, such as output_model_dir=search1 training.n_epochs=20"""
    resume: bool = False
    """go on with the search in output_model_dir: finished trials are not run again"""
    model: str | None = None
    """model directory; for a search over decoding.* alone, which decodes what this model gives"""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else a local Ray of its own"""
    json_line: bool = Field(False, validation_alias="json")
    """print one JSON object as the last line of stdout"""

    epilog: ClassVar[str] = "Keys of the search file:\n\n" + describe_keys(Search)

    def run(self) -> int:
        started = time.time() - time.process_time()
        tree = config.grouped(config.read_json_object(self.config), self.overrides, self.config)
        wanted, base = search_file.load(self.search, tree)
        both = [text for text in self.overrides if text.partition("=")[0] in wanted.fixed]
        if both:
            raise UsageError(f"{both[0]}: {self.search} fixes it too: leave it out here or there")
        _check(wanted, config.parse(base, origin=self.config), self.model, self.resume)
        if wanted.decoding_only:
            from raycrnn.tuning import decoding_search

            outcome = decoding_search.search(wanted, base, self.model)
        else:
            outcome = run.tune(wanted, base, self.resume, self.address, started)
        if outcome.trials.best() is None:
            return 130
        print(outcome.describe(tree))
        if outcome.interrupted:
            logger.info("stopped; the same command with --resume goes on")
        if self.json_line:
            print(json.dumps(outcome.as_json()))
        return 130 if outcome.interrupted else 0


def _check(wanted: Search, configuration: Configuration, model: str | None, resume: bool) -> None:
    """Raises `UsageError` where search, configuration and options do not go together."""
    if not configuration.data.csv_files_eval:
        raise UsageError("a search needs data.csv_files_eval, to tell which trial is better")
    if wanted.decoding_only and model is None:
        raise UsageError("a search over decoding.* alone decodes what a trained model gives: name it by --model")
    if wanted.decoding_only and "loss" in wanted.metric:
        raise UsageError("metric: loss: decoding does not change it: choose cer, wer, accuracy or speed")
    if wanted.decoding_only and resume:
        raise UsageError("a search over decoding.* alone takes seconds and is not resumed: choose another directory")
    if model is not None and not wanted.decoding_only:
        raise UsageError("--model is for a search over decoding.* alone; other searches train their trials")


if __name__ == "__main__":
    Tune.main()
