"""Run a hyperparameter search."""

import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raycrnn import cluster, config, storage
from raycrnn.config import Configuration
from raycrnn.console import defer_stop
from raycrnn.data.image_files import SIZES_FILE
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.storage import Directory
from raycrnn.training import initial_model
from raycrnn.training.initial_model import InitialModel
from raycrnn.tuning import start
from raycrnn.tuning.search_space import Search

# Imported in the functions where they are needed: with them come Ray and torch, and the environment of Ray must be set
# before.
if TYPE_CHECKING:
    from raycrnn.data.labelled_csvs import LabelledCsvs
    from raycrnn.tuning.experiment import Experiment, Trial
    from raycrnn.tuning.resources import TrialResources
    from raycrnn.tuning.results import SearchResult
    from raycrnn.tuning.trainable import SharedState

logger = logging.getLogger(__name__)


CLOSING_SECONDS = 8.0
"""Seconds of the search's `max_minutes` reserved for stopping the trials and writing the results."""


def tune(
    search: Search,
    base: dict[str, object],
    resume: bool = False,
    address: str | None = None,
    started: float | None = None,
) -> "SearchResult":
    """Run a search and write its results.

    Args:
        base: The grouped configuration, with the values that the search fixes.
        started: Unix time from which the search's `max_minutes` counts. Default: now.

    Raises:
        UsageError: The search cannot run on this cluster, or the output directory is in use.
        RaycrnnError: Too many samples are unusable, or no trial has scores.
    """
    if "speed" in search.metric and search.concurrent != 1:
        logger.warning("metric speed: trials that run at the same time slow each other down: set concurrent: 1")
    deadline = (started or time.time()) + 60 * search.max_minutes - CLOSING_SECONDS if search.max_minutes else None
    local = cluster.set_environment(address or os.environ.get("RAY_ADDRESS"))
    from raycrnn.training import trainer
    from raycrnn.tuning import results
    from raycrnn.tuning.experiment import Experiment

    configuration = start.alike(config.parse(base), search)
    if local and configuration.cluster.use_gpu is True and search.resources.gpus != 0:
        cluster.require_gpu()
    start.check_searched_keys(search, configuration.training.initial_model)
    output = Directory(storage.absolute(configuration.output_model_dir))
    _check_output(output, resume)
    start_of_search = start.as_before(configuration, output) if resume else configuration
    configuration, model, csvs = initial_model.prepare_run(start_of_search)
    experiment = Experiment(output, search, start.tree_of_base(base, configuration))
    _identify_data(experiment, csvs, resume)
    with storage.lock_output(experiment.output), cluster.connect(address), cluster.Threads() as threads:
        from raycrnn.tuning import resources, tuner

        cluster.wait_for_nodes(configuration.cluster)
        allotted = resources.divide_resources(configuration, search, _usable_nodes(configuration, search))
        shared = _share_data(configuration, model.put() if model else None, csvs, experiment, allotted, threads)
        if not cluster.is_local():
            trainer.check_shared(experiment.output, shared.data)
            logger.info(f"cluster: {cluster.describe_nodes()}")
        experiment.output.claim()
        # The rows are in the object store now.
        del csvs
        experiment.save_search()
        logger.info(f"{shared.data}; {search.trials} trials and the base, {allotted}")
        with defer_stop() as stop:
            stopper = tuner.SearchStopper(deadline, stop)
            tuner.run(experiment, shared, allotted, stopper)
        shared.image_cache_registry.close.remote()
        if stopper.problem:
            raise RaycrnnError(f"{stopper.problem}\nfree some space, then continue with the same command and --resume")
        if stopper.interrupted and experiment.best() is None:
            logger.info("stopped before the first evaluation; the same command with --resume continues")
            return results.SearchResult(experiment, interrupted=True)
        results.write(experiment, partial(_copy_model, experiment))
    return results.SearchResult(experiment, stopper.interrupted)


def _identify_data(experiment: "Experiment", csvs: "LabelledCsvs", resume: bool) -> None:
    """Set what identifies the data of a search, and load a search that is resumed."""
    from raycrnn.data.alphabet import Alphabet

    experiment.data = dict(csvs.digests)
    experiment.units = list(csvs.alphabet.units) if csvs.alphabet else None
    if resume:
        experiment.load()
        # Built once: images may have been lost or restored since then.
        csvs.alphabet = Alphabet(tuple(experiment.units or ()))


def _usable_nodes(configuration: Configuration, search: Search) -> cluster.Nodes:
    nodes = cluster.list_nodes()
    return nodes if search.resources.gpus == 0 else cluster.with_usable_gpus(configuration.cluster, nodes)


def _copy_model(experiment: "Experiment", best: "Trial", path: Path) -> None:
    """Copy the model directory of a trial to a path. Raises `OSError` or `UsageError` if storage fails."""
    experiment.fetch(best.name, "model")
    shutil.copytree(experiment.trial_path(best.name) / "model", path)


def _check_output(output: Directory, resume: bool) -> None:
    """Check that the output directory is new, or contains a search to resume. Raises `UsageError`."""
    if output.path.exists() and not output.path.is_dir():
        raise UsageError(f"{output}: output_model_dir is a file")
    entries = output.entries()
    if resume:
        if "search.json" not in entries:
            raise UsageError(f"{output}: contains no search to resume")
        return
    if "search.json" in entries:
        raise UsageError(f"{output}: contains a search: --resume continues it, or choose another output_model_dir")
    # A search that was refused because of its data, or whose storage failed, leaves only these.
    if entries - {"rejected.csv", SIZES_FILE}:
        raise UsageError(f"{output}: exists and is not empty: choose another output_model_dir")


def _share_data(
    configuration: Configuration,
    model: InitialModel | None,
    csvs: "LabelledCsvs",
    experiment: "Experiment",
    allotted: "TrialResources",
    threads: cluster.Threads,
) -> "SharedState":
    """Put the rows into the object store, and start to cache the decoded images while the first trials run."""
    from raycrnn.ingest import image_cache, training_data
    from raycrnn.training.monitor import publish_image_cache, start_monitor
    from raycrnn.tuning.trainable import SharedState

    for name in experiment.output.entries():
        # Tune's record of an earlier command that was killed.
        if name.startswith(".ray-"):
            experiment.output.remove(name)
    image_cache_registry = start_monitor()
    data = training_data.put(csvs, configuration, experiment.output)
    experiment.units = list(data.alphabet.units)
    if model is not None:
        logger.info(model.describe(data.alphabet))
    for warning in data.warnings:
        logger.warning(warning)
    cache_images = image_cache.should_cache(data.train, configuration)
    logger.info(image_cache.describe(data.train, cache_images) + (", and shared by the trials" if cache_images else ""))
    if cache_images:
        publish = partial(publish_image_cache, image_cache_registry)
        threads.start(lambda: image_cache.fill_or_warn(data.train, configuration, allotted.allocation, publish))
    return SharedState(
        tree=experiment.tree,
        output=str(experiment.output),
        working_directory=str(Path.cwd()),
        data=data,
        image_cache_registry=image_cache_registry,
        cache_images=cache_images,
        initial_model=model,
        allocation=allotted.allocation,
        exchange=experiment.search.scheduler.pbt is not None,
    )
