"""Run a hyperparameter search."""

import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from raycrnn import cluster, config, storage
from raycrnn.config import Configuration
from raycrnn.console import defer_stop
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.storage import Directory
from raycrnn.tuning.search_space import Search

logger = logging.getLogger(__name__)


CLOSING_SECONDS = 8.0
"""kept of the search's `max_minutes` for ending the trials and for the report"""


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
        logger.warning("metric speed: trials that run beside each other slow each other: set concurrent: 1")
    deadline = (started or time.time()) + 60 * wanted.max_minutes - CLOSING_SECONDS if wanted.max_minutes else None
    cluster.set_environment(address or os.environ.get("RAY_ADDRESS"))
    from raycrnn.ingest import training_data
    from raycrnn.training import trainer
    from raycrnn.tuning import results
    from raycrnn.tuning.experiment import Experiment

    configuration = config.parse(base)
    trials = Experiment(Directory(storage.absolute(configuration.output_model_dir)), wanted, base)
    _open_output(trials.place, resume)
    csvs = training_data.read(configuration)
    trials.data = {**csvs.digests, "units": list(csvs.alphabet.units)}
    if resume:
        trials.load()
    with storage.lock_output(trials.place), cluster.connect(address), cluster.Threads() as threads:
        from raycrnn.tuning import resources, tuner

        cluster.wait_for_nodes(configuration.cluster)
        share = resources.divide_resources(configuration, wanted, cluster.list_nodes())
        common = _share_data(configuration, csvs, trials, share, threads)
        if not cluster.is_local():
            trainer.check_shared(trials.place, common.data)
            logger.info(f"cluster: {cluster.describe_nodes()}")
        trials.place.take()
        # The rows are in the object store now.
        del csvs
        trials.save_search()
        logger.info(f"{common.data}; {wanted.trials} trials and the base, {share}")
        with defer_stop() as stop:
            ending = tuner.SearchStopper(deadline, stop)
            tuner.run(trials, common, share, ending)
        common.image_cache_registry.close.remote()
        if ending.problem:
            raise RaycrnnError(f"{ending.problem}\nThe search is as it was: make room, and --resume goes on with it")
        if ending.interrupted and trials.best() is None:
            logger.info("stopped before the first evaluation; the same command with --resume goes on")
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


def _share_data(configuration: Configuration, csvs: Any, trials: Any, share: Any, threads: Any) -> Any:
    """Put the rows, and beside the first trials the decoded images, where all trials find them."""
    from raycrnn.ingest import image_cache, training_data
    from raycrnn.training.monitor import publish_image_cache, start_monitor
    from raycrnn.tuning.trainable import SharedState

    for rest in trials.place.entries():
        if rest.startswith(".ray-"):
            trials.place.remove(rest)
    image_cache_registry = start_monitor()
    read = training_data.put(csvs, configuration, trials.place)
    for warning in read.warnings:
        logger.warning(f"{warning}")
    cache_images = image_cache.should_cache(read.train, configuration)
    logger.info(image_cache.describe(read.train, cache_images) + (", and shared by the trials" if cache_images else ""))
    if cache_images:
        publish = partial(publish_image_cache, image_cache_registry)
        threads.start(lambda: image_cache.fill_or_warn(read.train, configuration, share.allocation, publish))
    return SharedState(
        tree=trials.tree,
        output=str(trials.place),
        working_directory=str(Path.cwd()),
        data=read,
        image_cache_registry=image_cache_registry,
        cache_images=cache_images,
        allocation=share.allocation,
        exchange=trials.search.scheduler.pbt is not None,
    )
