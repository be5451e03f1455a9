"""The trials of a search and their results, stored on disk so that an interrupted search can be resumed.

The output directory holds `search.json`, the definition of the search, and for each trial `trials/NAME/`, the output
directory of its training run, with its `trial.json`.
"""

import copy
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from raycrnn import __version__, config, storage
from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.training import run_log
from raycrnn.tuning.sampler import BASE
from raycrnn.tuning.search_space import MODES, Search

WAITING, RUNNING, FINISHED, STOPPED, FAILED = "waiting", "running", "finished", "stopped", "failed"
"""States of a trial. The scheduler stopped a trial that is `STOPPED`."""

CUT_OFF = "cut off"
"""State of a trial that was running when the search ended, because of its time limit or Ctrl-C."""

ENDED = (FINISHED, STOPPED, FAILED)
"""States of trials that a resumed search does not run again."""

COMPLETE = 0.999
"""Share of the training from which a trial counts as complete. Sums of shares have rounding errors."""

SCORES = ("cer", "wer", "accuracy", "loss", "epoch", "share", "speed")


@dataclass
class Trial:
    """One trial. The fields are those of trial.json."""

    name: str
    values: dict[str, object]
    """Values by dotted key. Empty for the base."""
    status: str = WAITING
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """The records of metrics.jsonl."""
    done: float = 0.0
    """Share of the training that is done, from 0 to 1."""
    minutes: float = 0.0
    node: str = ""
    error: str = ""
    took_over: list[str] = field(default_factory=list)
    """With pbt: the trials whose weights it continued from, and at which share of the training."""

    @property
    def number(self) -> int:
        """The number of the trial, 0 for the base."""
        return 0 if self.name == BASE else int(self.name)

    @property
    def scores(self) -> dict[str, float] | None:
        """Scores of the model in the trial's directory. None before the first model is saved."""
        best = [record for record in self.evaluations if record["best"]]
        if not best:
            return None
        scores = {name: best[-1][name] for name in SCORES if name in best[-1]}
        # Other work on the machine can only lower the measured speed, so the highest value is the most accurate.
        return {**scores, "speed": max(record["speed"] for record in self.evaluations)}

    def score(self, metric: str) -> float:
        """Return a sort key for a metric: lower is better, infinity if the trial has no scores."""
        if self.scores is None or metric not in self.scores:
            return float("inf")
        return self.scores[metric] if MODES[metric] == "min" else -self.scores[metric]


@dataclass
class Experiment:
    """All trials of a search, ordered by number."""

    output: Directory
    """The output directory."""
    search: Search
    tree: dict[str, Any]
    """The grouped configuration of the base."""
    trials: dict[str, Trial] = field(default_factory=dict)
    """Trials by name."""
    data: dict[str, object] = field(default_factory=dict)
    """The digest of each CSV by path."""
    units: list[str] | None = None
    """The units of the alphabet; None until it has been built from the data."""

    @property
    def path(self) -> Path:
        """The output directory, or the local copy of one in object storage (see `Directory`)."""
        return self.output.path

    def trial_path(self, name: str) -> Path:
        """Return the local path of a trial's directory."""
        return self.path / "trials" / name

    def fetch(self, name: str, *files: str) -> None:
        """Copy files of a trial from object storage, if they exist. Raises `UsageError` if storage fails."""
        self.output.fetch(*(f"trials/{name}/{file}" for file in files))

    def add(self, trial: Trial) -> None:
        """Add a trial and save it. Raises `OSError`."""
        self.trials[trial.name] = trial
        self.save(trial)

    def save(self, trial: Trial) -> None:
        """Write trial.json. Raises `OSError`."""
        directory = self.trial_path(trial.name)
        directory.mkdir(parents=True, exist_ok=True)
        storage.write_text(directory / "trial.json", json.dumps(asdict(trial), ensure_ascii=False, indent=1))
        self.output.sync()

    def save_search(self) -> None:
        """Write search.json. Raises `OSError`."""
        storage.write_text(self.path / "search.json", json.dumps(self._identity(), ensure_ascii=False, indent=1))
        self.output.sync()

    def _identity(self) -> dict[str, object]:
        """Return what identifies the search, as JSON values.

        The number of trials, the time limit and the resources may change when it is resumed.
        """
        search = self.search.model_dump(mode="json", exclude={"max_minutes", "concurrent", "resources", "samples"})
        tree = {key: value for key, value in self.tree.items() if key != "output_model_dir"}
        data = {**self.data, "units": self.units}
        identity = {"raycrnn": __version__, "search": search, "configuration": tree, "data": data}
        return json.loads(json.dumps(identity))

    def load(self) -> None:
        """Load the trials of the search in the output directory.

        Raises:
            UsageError: The directory contains no search, or a different one.
        """
        self.output.fetch("search.json")
        path = self.path / "search.json"
        if not path.is_file():
            raise UsageError(f"{self.output}: contains no search to resume")
        record = config.read_json_object(path)
        self.units = self.units or record["data"]["units"]
        identity = self._identity()
        before, now = _flatten(_at_places_of(identity, record)), _flatten(identity)
        changed = [
            f"{key}: was {config.to_json(before.get(key))}, is now {config.to_json(now.get(key))}"
            if not key.startswith("data: ")
            else f"{key} changed"
            for key in dict.fromkeys((*before, *now))
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise UsageError(
                f"{self.output}: contains a different search ({'; '.join(changed)}): undo the change, or choose "
                "another output_model_dir"
            )
        for name in self.output.entries("trials"):
            self.fetch(name, "trial.json")
        trials = [Trial(**config.read_json_object(path)) for path in self.path.glob("trials/*/trial.json")]
        self.trials = {trial.name: trial for trial in sorted(trials, key=lambda trial: trial.number)}
        for trial in self.trials.values():
            self.read_metrics(trial)

    def read_metrics(self, trial: Trial) -> None:
        """Replace a trial's evaluations by those in its metrics.jsonl, which may contain unreported ones.

        Raises `UsageError` if object storage cannot be read.
        """
        self.fetch(trial.name, "metrics.jsonl")
        path = self.trial_path(trial.name) / "metrics.jsonl"
        records = run_log.read_metrics(path) if path.exists() else []
        if records:
            trial.evaluations, last = records, records[-1]
            trial.done, trial.minutes = last["share"], last["seconds"] / 60

    def values_of(self, trial: Trial) -> dict[str, object]:
        """Return a trial's value of each searched key. For the base these are the configuration's own."""
        return {key: trial.values.get(key, value) for key, value in self._base_values.items()}

    @cached_property
    def _base_values(self) -> dict[str, object]:
        base = config.parse(self.tree).model_dump(mode="json")
        return {key: config.value_at(base, key) for key in self.search.search}

    @property
    def base(self) -> Trial | None:
        return self.trials.get(BASE)

    def ranked(self) -> list[Trial]:
        """Return the trials, best first: by the first metric, then by loss, then by number.

        Trials without scores follow, and failed trials come last.
        """
        metric = self.search.metric[0]

        def key(trial: Trial) -> tuple[bool, float, float, int]:
            # A failed trial, for example a diverged one, cannot be the best, even if it has scores.
            return trial.status == FAILED, trial.score(metric), trial.score("loss"), trial.number

        return sorted(self.trials.values(), key=key)

    def best(self) -> Trial | None:
        """Return the best trial that has scores and did not fail."""
        ranked = self.ranked()
        return ranked[0] if ranked and ranked[0].scores and ranked[0].status != FAILED else None

    def pareto_front(self) -> list[Trial]:
        """Return the trials that no other trial beats in all metrics, best in the first metric first."""
        candidates = [trial for trial in self.ranked() if trial.scores and trial.status != FAILED]
        points = [(trial, tuple(map(trial.score, self.search.metric))) for trial in candidates]
        return [trial for trial, point in points if not any(_dominates(other, point) for _, other in points)]


def _at_places_of(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return an earlier identity with what may change taken from the present one.

    That is the places of the CSVs, if there are as many, and the grace of asha, whose default was another one.
    """
    before = copy.deepcopy(before)
    asha, asha_now = (each.get("search", {}).get("scheduler", {}).get("asha") for each in (before, now))
    if asha and asha_now:
        asha["grace"] = asha_now["grace"]
    settings, settings_now = (each.get("configuration", {}).get("data", {}) for each in (before, now))
    moved: list[tuple[str, str]] = []
    for key in settings.keys() & settings_now.keys() & {"csv_files_train", "csv_files_eval"}:
        files: Any = config.one_as_several(settings[key])
        files_now: Any = config.one_as_several(settings_now[key])
        if len(files) != len(files_now) or isinstance(files, dict) != isinstance(files_now, dict):
            continue
        moved += zip(files, files_now, strict=True)
        weighted = isinstance(files, dict)
        settings[key] = dict(zip(files_now, files.values(), strict=True)) if weighted else settings_now[key]
    digests = before.get("data", {})
    kept = {name: value for name, value in digests.items() if name not in dict(moved)}
    before["data"] = kept | {new: digests[old] for old, new in moved if old in digests}
    return before


def _flatten(identity: dict[str, Any]) -> dict[str, object]:
    """Return the parts of a search's identity by names that a user knows: `search.KEY`, `configuration.KEY`, …"""
    flat = {f"search.{key}": value for key, value in identity.get("search", {}).items() if key != "fixed"}
    for group, values in identity.get("configuration", {}).items():
        members = values if isinstance(values, dict) else {"": values}
        flat |= {f"configuration.{group}.{key}".rstrip("."): value for key, value in members.items()}
    return flat | {f"data: {name}": value for name, value in identity.get("data", {}).items()}


def _dominates(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    return other != point and all(theirs <= ours for theirs, ours in zip(other, point, strict=True))
