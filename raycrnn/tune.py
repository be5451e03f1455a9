"""The verb tune: from a configuration and a search file to a better model and its configuration, on Ray Tune."""

import json
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import cluster, config, search, storage
from raycrnn.command import Command, interrupt_noted, say
from raycrnn.config import Configuration
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.search import Search
from raycrnn.storage import Directory

CLOSING_SECONDS = 8.0
"""kept of the search's `max_minutes` for ending the trials and for the report"""


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

    epilog: ClassVar[str] = "keys of the search file [default]:\n" + search.describe_keys()

    def run(self) -> int:
        started = time.time() - time.process_time()
        tree = config.grouped(config.read_json_object(self.config), self.overrides, self.config)
        wanted, base = search.load(self.search, tree)
        both = [text for text in self.overrides if text.partition("=")[0] in wanted.fixed]
        if both:
            raise UsageError(f"{both[0]}: {self.search} fixes it too: leave it out here or there")
        _check(wanted, config.parse(base, origin=self.config), self.model, self.resume)
        if wanted.decoding_only:
            from raycrnn import decodings

            outcome = decodings.search(wanted, base, self.model)
        else:
            outcome = tune(wanted, base, self.resume, self.address, started)
        if outcome.trials.best() is None:
            return 130
        print(outcome.describe(tree))
        if outcome.interrupted:
            say("stopped; the same command with --resume goes on")
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


def tune(
    wanted: Search, base: dict, resume: bool = False, address: str | None = None, started: float | None = None
) -> Any:
    """Run a whole search.

    Args:
        base: the configuration with what the search fixes, grouped.
        started: seconds since 1970 from which the search's `max_minutes` counts; default now.

    Returns:
        A `results.Outcome`.

    Raises:
        UsageError: a search that cannot run here, an output directory that is in use.
        RaycrnnError: too many unusable samples, no trial with scores.
    """
    if "speed" in wanted.metric and wanted.concurrent != 1:
        say("warning: metric speed: trials that run beside each other slow each other: set concurrent: 1")
    deadline = (started or time.time()) + 60 * wanted.max_minutes - CLOSING_SECONDS if wanted.max_minutes else None
    cluster.set_environment(address or os.environ.get("RAY_ADDRESS"))
    from raycrnn import fit, material, results
    from raycrnn.trials import Trials

    configuration = config.parse(base)
    trials = Trials(Directory(storage.absolute(configuration.output_model_dir)), wanted, base)
    _open_output(trials.place, resume)
    csvs = material.read(configuration)
    trials.data = {**csvs.digests, "units": list(csvs.alphabet.units)}
    if resume:
        trials.load()
    with fit.alone_in(trials.place), cluster.connect(address), fit.Threads() as threads:
        from raycrnn import trial, tuning

        cluster.grow(configuration.cluster, say)
        share = trial.share(configuration, wanted, cluster.nodes())
        common = _share_material(configuration, csvs, trials, share, threads)
        if not cluster.is_local():
            fit.check_shared(trials.place, common.material)
            say(f"cluster: {cluster.describe_nodes()}")
        trials.place.take()
        # The rows are in the object store now.
        del csvs
        trials.save_search()
        say(f"{common.material}; {wanted.trials} trials and the base, {share}")
        with interrupt_noted() as interrupt:
            ending = tuning.Ending(deadline, interrupt, say)
            tuning.run(trials, common, share, ending)
        common.shelf.close.remote()
        if ending.problem:
            raise RaycrnnError(f"{ending.problem}\nThe search is as it was: make room, and --resume goes on with it")
        if ending.interrupted and trials.best() is None:
            say("stopped before the first evaluation; the same command with --resume goes on")
            return results.Outcome(trials, interrupted=True)
        results.write(trials, partial(_copy_model, trials))
    return results.Outcome(trials, ending.interrupted)


def _copy_model(trials: Any, best: Any, path: Path) -> None:
    """Raises `OSError`, `UsageError` where storage fails."""
    trials.fetch(best.name, "model")
    shutil.copytree(trials.directory(best.name) / "model", path)


def _open_output(output: Directory, resume: bool) -> None:
    """Find out whether the output directory is new, or holds a search to go on with. Raises `UsageError`."""
    if output.path.exists() and not output.path.is_dir():
        raise UsageError(f"{output}: output_model_dir is a file")
    held = output.entries()
    if resume:
        if "search.json" not in held:
            raise UsageError(f"{output}: holds no search to resume")
        return
    # rejected.csv alone is left by a search that was refused for its data.
    if "search.json" in held:
        raise UsageError(f"{output}: holds a search: --resume goes on with it, or choose another output_model_dir")
    if held - {"rejected.csv"}:
        raise UsageError(f"{output}: exists and is not empty: choose another output_model_dir")


def _share_material(configuration: Configuration, csvs: Any, trials: Any, share: Any, threads: Any) -> Any:
    """Put the rows, and beside the first trials the decoded images, where all trials find them."""
    from raycrnn import keep, material
    from raycrnn.monitor import Monitor
    from raycrnn.trial import Common

    for rest in trials.place.entries():
        if rest.startswith(".ray-"):
            trials.place.remove(rest)
    shelf = Monitor.options(scheduling_strategy=cluster.on_this_node()).remote()
    read = material.put(csvs, configuration, trials.place)
    for warning in read.warnings:
        say(f"warning: {warning}")
    kept = keep.fits(read.train, configuration)
    say(keep.describe(read.train, kept) + (", and shared by the trials" if kept else ""))
    if kept:
        threads.start(lambda: keep.fill_beside(read.train, configuration, share.plan, shelf, say))
    return Common(
        tree=trials.tree,
        output=str(trials.place),
        working_directory=str(Path.cwd()),
        material=read,
        shelf=shelf,
        keep=kept,
        plan=share.plan,
        exchange=trials.search.scheduler.pbt is not None,
    )


if __name__ == "__main__":
    Tune.main()
