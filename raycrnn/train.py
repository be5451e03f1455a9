"""The verb train: from a configuration to a model directory, on Ray."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from raycrnn import checkpoint, cluster, config
from raycrnn.command import Command
from raycrnn.config import Configuration
from raycrnn.errors import RaycrnnError, UsageError

UNFINISHED = (".ray-*", ".model.*", ".run.json.*", ".metrics.jsonl.*", ".rejected.csv.*", "checkpoints/.step_*")
"""Names of what is being written; nothing else in an output directory may be deleted."""

SECONDS_BETWEEN_RESIZES = 30.0
"""An elastic run looks so often whether it could have more workers; a change starts them anew."""


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

    epilog: ClassVar[str] = "keys of the configuration [default]:\n" + config.describe_keys()

    def run(self) -> int:
        # The interpreter's start and the imports were mostly computing: the budget counts them too.
        started = time.time() - time.process_time()
        configuration = config.load(self.config, self.overrides)
        outcome = train(configuration, self.address, started)
        if "stopped" in outcome:
            return 130
        self._print(configuration, outcome)
        return 0

    def _print(self, configuration: Configuration, outcome: dict) -> None:
        model = Path(configuration.output_model_dir) / "model"
        best = outcome["best"]
        if "cer" in best:
            cer, wer, exact = (100 * best[name] for name in ("cer", "wer", "accuracy"))
            print(f"best: CER {cer:.2f} %, WER {wer:.2f} %, exact {exact:.1f} % at epoch {best['epoch']:g}")
        print(f"model: {model}")
        print(f"next:  python -m raycrnn.predict {model} images/ -o transcriptions.csv")
        print(f"       tensorboard --logdir {Path(configuration.output_model_dir) / 'logs'}")
        if self.json_line:
            print(json.dumps({"model": str(model), **outcome}))


def train(configuration: Configuration, address: str | None = None, started: float | None = None) -> dict:
    """Run a whole training.

    Args:
        started: seconds since 1970 from which `training.max_minutes` counts; default now.

    Returns:
        `{"best": scores, "steps": n, "rejected": n, "start": {part: seconds}}`, or `{"stopped": step}` after Ctrl-C.

    Raises:
        UsageError: a configuration that cannot run here, an output directory that is in use.
        RaycrnnError: too many unusable samples, divergence, more failures than `cluster.max_failures`.
    """
    started = started or time.time()
    marks = {}
    output = Path(configuration.output_model_dir).absolute()
    cluster.set_environment(address or os.environ.get("RAY_ADDRESS"))
    resumed = _resume_state(output, configuration.restore_model)
    if resumed:
        _check_same_settings(resumed["identity"], configuration.identity())
        if resumed["progress"]["finished"]:
            return _finished(output, resumed)
    csvs = _read_csvs(configuration)
    paths = (*configuration.data.train_csvs, *configuration.data.csv_files_eval)
    digests = {path: _digest(path) for path in paths}
    if resumed:
        _check_same_data(resumed["csv_digests"], digests)

    from raycrnn import dataset

    alphabet = dataset.alphabet_of(csvs["train"], configuration.data)
    if resumed and tuple(resumed["alphabet"]) != alphabet.units:
        raise UsageError(f"{output}: the alphabet is not that of the checkpoint: {_difference(resumed, alphabet)}")
    marks["imports, configuration, CSVs"] = time.time()
    with _alone_in(output), cluster.connect(address, ahead="torch"), _Threads() as threads:
        marks["Ray"] = time.time()
        job = _make_job(configuration, csvs, alphabet, digests, output, started, threads)
        # Of a long CSV they take hundreds of megabytes; the rows are in the object store now.
        csvs.clear()
        _prepare_output(job)
        marks["alphabet, rows, image headers"] = time.time()
        outcome = _watch(job, threads)
        if "marks" in outcome:
            outcome["start"] = _parts(started, {**marks, **outcome.pop("marks")})
        return outcome


def _parts(started: float, marks: dict[str, float]) -> dict[str, float]:
    """Seconds that each part of the start took, by the times at which they ended."""
    times = [started, *marks.values()]
    return {part: round(stop - start, 2) for part, start, stop in zip(marks, times, times[1:], strict=False)}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _resume_state(output: Path, restore: bool) -> dict | None:
    """The state of the last whole checkpoint, None to start afresh. Raises `UsageError`."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: output_model_dir is a file")
    # rejected.csv alone is left by a run that was refused for its data, and is no reason to refuse the next.
    held = {path.name for path in output.iterdir()} if output.exists() else set()
    if held <= {"rejected.csv"}:
        return None
    if not held & {"run.json", "checkpoints"}:
        raise UsageError(f"{output}: holds files, and none of a run: choose another output_model_dir")
    if not restore:
        raise UsageError(
            f"{output}: exists and is not empty: choose another output_model_dir, "
            "or restore_model=true to go on with the run in it"
        )
    found, problems = checkpoint.latest(output / "checkpoints")
    for problem in problems:
        _say(f"warning: {problem}")
    if found is None and problems:
        raise UsageError(f"{output}: none of its checkpoints can be read: restore one, or choose another directory")
    if found is None:
        _say(f"{output}: no checkpoint: starting afresh")
        return None
    if problems:
        _say(f"the checkpoint before it is used: {found.path.name}")
    return found.state


def _finished(output: Path, state: dict) -> dict:
    """What a run that is over gave. Raises `UsageError` if its model is gone."""
    progress = state["progress"]
    if not (output / "model" / "model.safetensors").exists():
        raise UsageError(f"{output}: this run is finished, but its model/ is gone: start a new output_model_dir")
    _say(f"{output}: this run is finished, at step {progress['step']}; for another choose a new output_model_dir")
    return {"best": progress["best"], "steps": progress["step"], "rejected": state["rejected_count"]}


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Make the output directory and hold it while training. Raises `UsageError` if it cannot be had."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from None
    directory = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"{output}: another command trains in it: wait, or choose another output_model_dir") from None
    finally:
        os.close(directory)


def _read_csvs(configuration: Configuration) -> dict[str, list]:
    from raycrnn import dataset

    data = configuration.data
    paths = {"train": data.train_csvs, "eval": data.csv_files_eval}
    return {name: dataset.read_labels(each, data) for name, each in paths.items()}


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _check_same_data(before: dict[str, str], now: dict[str, str]) -> None:
    """Raises `UsageError` if a run would go on with other data than it began with."""
    changed = [path for path, digest in now.items() if path in before and before[path] != digest]
    differences = {
        "changed": changed,
        "new": [path for path in now if path not in before],
        "no longer listed": [path for path in before if path not in now],
    }
    found = "; ".join(f"{what}: {', '.join(paths)}" for what, paths in differences.items() if paths)
    if found:
        raise UsageError(
            f"the CSVs are not those that the checkpoint was trained on ({found}): restore them, or start a new run "
            "in another output_model_dir"
        )


def _check_same_settings(before: dict, now: dict) -> None:
    """Raises `UsageError` if a run would go on with other steps than it began with."""
    changed = [f"{key}: {before.get(key)} then, {value} now" for key, value in now.items() if before.get(key) != value]
    if changed:
        raise UsageError(
            f"the configuration is not that of the checkpoint ({'; '.join(changed)}): set it back, or start a new run "
            "in another output_model_dir"
        )


def _difference(resumed: dict, alphabet: Any) -> str:
    before, now = set(resumed["alphabet"]), set(alphabet.units)
    return f"missing {sorted(before - now)}, new {sorted(now - before)}"


def _make_job(
    configuration: Configuration,
    csvs: dict[str, list],
    alphabet: Any,
    digests: dict,
    output: Path,
    started: float,
    threads: "_Threads",
) -> Any:
    from raycrnn import dataset, ingest, keep
    from raycrnn.job import Job
    from raycrnn.monitor import Monitor

    parallel_calls = configuration.data.input_data_n_parallel_calls
    plan = cluster.plan(configuration.cluster, parallel_calls, cluster.nodes(), cluster.is_local())
    _warn_if_busy(plan)
    # Their processes start while the rows are encoded.
    monitor = Monitor.options(scheduling_strategy=cluster.on_this_node()).remote()
    threads.start(lambda: ingest.warm_up(plan))
    train_set = dataset.put_samples(csvs["train"], alphabet, configuration, training=True)
    eval_set = dataset.put_samples(csvs["eval"], alphabet, configuration, training=False) if csvs["eval"] else None
    sets = {name: each for name, each in (("train", train_set), ("eval", eval_set)) if each}
    _check_sets(sets, configuration, output)
    if plan.warning:
        _say(f"warning: {plan.warning}")
    rows = f"{train_set.usable:,} rows to train on, {eval_set.usable if eval_set else 0:,} to evaluate"
    _say(f"{rows}, {len(alphabet)} units; {plan}")
    kept = keep.fits(train_set, configuration)
    megabytes = f"{train_set.decoded_bytes / 1e6:,.0f} MB"
    _say(f"decoded images are {'kept in memory' if kept else 'not kept in memory, but read every epoch'}: {megabytes}")
    return Job(configuration, alphabet, train_set, eval_set, digests, str(output), plan, started, monitor, kept)


def _check_sets(sets: dict[str, Any], configuration: Configuration, output: Path) -> None:
    """Say what is odd in the sets. Raises `RaycrnnError`, with rejected.csv written, if too much is unusable."""
    from raycrnn import dataset, journal

    for warning in (warning for sample_set in sets.values() for warning in sample_set.warnings):
        _say(f"warning: {warning}")
    try:
        for name, sample_set in sets.items():
            dataset.check_rejections(name, sample_set.rejections, sample_set.rows, configuration.data)
    except RaycrnnError as error:
        rejections = [rejection for sample_set in sets.values() for rejection in sample_set.rejections]
        try:
            journal.write_rejected(output / "rejected.csv", rejections)
        except OSError as problem:
            raise RaycrnnError(f"{error}\n{output}/rejected.csv: cannot be written: {problem.strerror}") from None
        raise RaycrnnError(f"{error}\nall of them are listed in {output}/rejected.csv") from None


def _warn_if_busy(plan: Any) -> None:
    import ray

    needed = plan.num_workers * (plan.cpus_per_worker + plan.decode_tasks * plan.cpus_per_decode_task)
    free = ray.available_resources().get("CPU", 0)
    if free < 0.99 * needed:
        _say(f"warning: {free:g} CPUs are free of {needed:g} needed: training waits for what else runs on the cluster")


def _prepare_output(job: Any) -> None:
    from raycrnn import journal

    output = Path(job.output)
    try:
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        # What a run that was killed left half-written.
        for rest in (rest for pattern in UNFINISHED for rest in output.glob(pattern)):
            shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
        journal.write_run(output / "run.json", job.configuration.model_dump(mode="json"), job.csv_digests)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from None


def _watch(job: Any, threads: "_Threads") -> dict:
    """Run the trainer beside this thread, show what it does, pass Ctrl-C on."""
    import ray

    from raycrnn.monitor import Screen, Stall

    fit = threads.start(lambda: _train_here(job) if job.plan.in_command else _fit(job))
    keeper: _Background | None = None
    screen, stall = Screen(), Stall()
    stopping = False
    while True:
        try:
            # In this order: a worker's last word is posted before its trainer ends.
            ended = fit.ended
            progress, lines, outcome = ray.get(job.monitor.read.remote())
            for line in lines:
                screen.line(line)
            screen.show(progress)
            if progress and keeper is None and job.keep:
                # From the first step on, so that it does not come later.
                keeper = threads.start(lambda: _keep(job, screen.line))
            if stall.lasts(progress.get("step")):
                screen.line(stall.describe(ray.get(job.monitor.doing.remote())))
            if outcome is not None or ended:
                screen.close()
                return _conclude(job, outcome, fit)
            time.sleep(0.5)
        except ray.exceptions.RayError as error:
            screen.close()
            raise RaycrnnError(f"Ray was lost; restore_model=true goes on from the last checkpoint: {error}") from None
        except KeyboardInterrupt:
            if stopping:
                screen.close()
                _stop_at_once(job)
            stopping = True
            screen.line("stopping after this step, with a checkpoint; Ctrl-C again stops at once")
            job.monitor.stop.remote()


def _stop_at_once(job: Any) -> None:
    import ray

    if job.plan.in_command:
        # Python cannot end a thread that computes; leaving it to the interpreter's end may crash in the middle.
        _say("raycrnn train: stopped")
        ray.shutdown()
        os._exit(130)
    raise KeyboardInterrupt


def _conclude(job: Any, outcome: dict | None, fit: "_Background") -> dict:
    job.monitor.close.remote()
    # The workers' CPUs are given back; of a local Ray the rest ends with it.
    fit.join(10)
    if outcome is None:
        raise RaycrnnError(_describe_failure(job, fit.error))
    if "error" in outcome:
        raise RaycrnnError(outcome["error"])
    if "stopped" in outcome:
        _say(f"stopped at step {outcome['stopped']}; the same command with restore_model=true goes on from there")
    if outcome.get("rejected"):
        _say(f"{outcome['rejected']} samples could not be used: see {job.output}/rejected.csv")
    return outcome


def _describe_failure(job: Any, error: BaseException | None) -> str:
    if job.plan.in_command:
        cause = "".join(traceback.format_exception(error)).strip() if error else "no word of what happened"
        return f"training failed; restore_model=true goes on from the last checkpoint. The failure:\n{cause}"
    causes = getattr(error, "worker_failures", None) or {0: error}
    cause = str(next(iter(causes.values()))).strip()
    return (
        f"training failed more than cluster.max_failures={job.configuration.cluster.max_failures} times; "
        f"restore_model=true goes on from the last checkpoint. The last failure:\n{cause}"
    )


class _Threads:
    """Threads that are waited for before Ray goes: what they do with it must not be cut off by its end."""

    def __init__(self) -> None:
        self._started: list[_Background] = []

    def __enter__(self) -> "_Threads":
        return self

    def start(self, function: Callable[[], None]) -> "_Background":
        self._started.append(_Background(function))
        return self._started[-1]

    def __exit__(self, kind: type | None, *_: object) -> None:
        # Who presses Ctrl-C twice waits for nothing.
        for thread in self._started if kind is not KeyboardInterrupt else ():
            thread.join(10)


class _Background:
    """A function in a thread that ends with the process."""

    def __init__(self, function: Callable[[], None]):
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            self.error = error

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()


def _keep(job: Any, say: Callable[[str], None]) -> None:
    """Fill the object store with the decoded training images, while training runs. It is a help and no need."""
    import ray

    from raycrnn import keep

    def tell(kept: keep.Kept) -> bool:
        return ray.get(job.monitor.keep.remote(kept))

    try:
        keep.fill(job.train, job.configuration, job.plan, tell)
    except (RaycrnnError, ray.exceptions.RayError) as error:
        say(f"warning: decoded images are no longer kept, but read every epoch: {error}")


def _train_here(job: Any) -> None:
    """Train in this process: one worker on this machine, without the seconds and processes that a trainer takes."""
    import torch

    from raycrnn import worker

    worker.run(job, torch.device("cuda" if job.plan.use_gpu else "cpu"))


def _run_worker(settings: dict) -> None:
    """What the trainer has each of its workers do."""
    import ray.train.torch

    from raycrnn import worker

    worker.run(settings["job"], ray.train.torch.get_device())


def _fit(job: Any) -> None:
    """Train by workers of Ray Train, which are replaced when they die."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = {"CPU": job.plan.cpus_per_worker} | ({"GPU": 1} if job.plan.use_gpu else {})
    # Ray's own record of the run would make it resume by itself; ours (checkpoint.py) decides, so it gets a
    # place of its own each time.
    with tempfile.TemporaryDirectory(prefix=".ray-", dir=job.output, ignore_cleanup_errors=True) as record:
        TorchTrainer(
            _run_worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=job.plan.scaling,
                use_gpu=job.plan.use_gpu,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
            ),
            run_config=RunConfig(
                name="run",
                storage_path=record,
                # Workers that cannot be placed are tried again without end: a node may come back, and `Stall` says it.
                failure_config=FailureConfig(
                    max_failures=job.configuration.cluster.max_failures, controller_failure_limit=-1
                ),
            ),
        ).fit()


if __name__ == "__main__":
    Train.main()
