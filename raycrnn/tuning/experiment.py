"""The trials of a search: what each tried and reached, on disk so that a search that was killed can go on.

In the output directory: `search.json` what is searched, `trials/NAME/` the run of each trial and its `trial.json`.
"""

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
"""A trial is stopped by the scheduler."""

CUT_OFF = "cut off"
"""when the search ended: its time was up, or somebody pressed Ctrl-C"""

ENDED = (FINISHED, STOPPED, FAILED)
"""Trials that a resumed search does not run again."""

WHOLE = 0.999
"""A trial that has done this share of its training has done all of it: sums of shares are rounded."""

SCORES = ("cer", "wer", "accuracy", "loss", "epoch", "share", "speed")


@dataclass
class Trial:
    """One trial."""

    name: str
    values: dict[str, Any]
    """by dotted key; empty for the base"""
    status: str = WAITING
    evaluations: list[dict] = field(default_factory=list)
    """lines of metrics.jsonl"""
    done: float = 0.0
    """share of its training"""
    minutes: float = 0.0
    node: str = ""
    error: str = ""
    took_over: list[str] = field(default_factory=list)
    """by pbt, from which trials' weights it went on, and at which share of the training"""

    @property
    def number(self) -> int:
        """0 for the base."""
        return 0 if self.name == BASE else int(self.name)

    @property
    def scores(self) -> dict[str, float] | None:
        """Of the model in its directory; None: there is none."""
        best = [record for record in self.evaluations if record["best"]]
        if not best:
            return None
        scores = {name: best[-1][name] for name in SCORES if name in best[-1]}
        # What else runs on the machine only ever slows it.
        return {**scores, "speed": max(record["speed"] for record in self.evaluations)}

    def score(self, metric: str) -> float:
        """To sort by: the lower the better; infinity without scores."""
        if self.scores is None or metric not in self.scores:
            return float("inf")
        return self.scores[metric] if MODES[metric] == "min" else -self.scores[metric]


@dataclass
class Experiment:
    """All trials of a search, in the order of their numbers."""

    place: Directory
    """the output directory"""
    search: Search
    tree: dict
    """the base, grouped"""
    trials: dict[str, Trial] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """what was read: the digest of each CSV by its path, and the alphabet's units"""

    @property
    def output(self) -> Path:
        """The output directory, or this machine's copy of one in object storage: see `Directory`."""
        return self.place.path

    def directory(self, name: str) -> Path:
        return self.output / "trials" / name

    def fetch(self, name: str, *wanted: str) -> None:
        """Copy what a trial wrote from object storage, if it is there. Raises `UsageError`."""
        self.place.fetch(*(f"trials/{name}/{each}" for each in wanted))

    def add(self, trial: Trial) -> None:
        self.trials[trial.name] = trial
        self.save(trial)

    def save(self, trial: Trial) -> None:
        """Raises `OSError`."""
        directory = self.directory(trial.name)
        directory.mkdir(parents=True, exist_ok=True)
        storage.write_whole(directory / "trial.json", json.dumps(asdict(trial), ensure_ascii=False, indent=1))
        self.place.push()

    def save_search(self) -> None:
        """Raises `OSError`."""
        storage.write_whole(self.output / "search.json", json.dumps(self._identity(), ensure_ascii=False, indent=1))
        self.place.push()

    def _identity(self) -> dict:
        """What a resumed search must not change; how long, how many at a time and where may."""
        told = {"max_minutes", "concurrent", "resources", "samples"}
        written = self.search.model_dump(mode="json", exclude=told)
        tree = {key: value for key, value in self.tree.items() if key != "output_model_dir"}
        # As JSON gives it back.
        identity = {"raycrnn": __version__, "search": written, "configuration": tree, "data": self.data}
        return json.loads(json.dumps(identity))

    def load(self) -> None:
        """The trials of the search that is in the output directory.

        Raises:
            UsageError: there is none, or another one.
        """
        self.place.fetch("search.json")
        path = self.output / "search.json"
        if not path.is_file():
            raise UsageError(f"{self.place}: holds no search to resume")
        before, now = _flat(config.read_json_object(path)), _flat(self._identity())
        changed = [
            f"{key}: {config.to_json(before.get(key))} then, {config.to_json(now.get(key))} now"
            if not key.startswith("data: ")
            else f"{key} changed"
            for key in dict.fromkeys((*before, *now))
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise UsageError(
                f"{self.place}: the search in it is another one ({'; '.join(changed)}): set it back, or choose "
                "another output_model_dir"
            )
        for name in self.place.entries("trials"):
            self.fetch(name, "trial.json")
        found = [Trial(**config.read_json_object(path)) for path in self.output.glob("trials/*/trial.json")]
        self.trials = {trial.name: trial for trial in sorted(found, key=lambda trial: trial.number)}
        for trial in self.trials.values():
            self.catch_up(trial)

    def catch_up(self, trial: Trial) -> None:
        """Take a trial's evaluations as its run wrote them down: the last may not have been heard of.

        Raises `UsageError` if object storage cannot be read.
        """
        self.fetch(trial.name, "metrics.jsonl")
        path = self.directory(trial.name) / "metrics.jsonl"
        records = run_log.read_metrics(path) if path.exists() else []
        if records:
            trial.evaluations, last = records, records[-1]
            trial.done, trial.minutes = last["share"], last["seconds"] / 60

    def values_of(self, trial: Trial) -> dict[str, Any]:
        """Its value of each key that is searched, the base's too."""
        return {key: trial.values.get(key, value) for key, value in self._values_of_base.items()}

    @cached_property
    def _values_of_base(self) -> dict[str, Any]:
        base = config.parse(self.tree).model_dump(mode="json")
        return {key: config.value_at(base, key) for key in self.search.search}

    @property
    def base(self) -> Trial | None:
        return self.trials.get(BASE)

    def ranked(self) -> list[Trial]:
        """Best first: by the first metric, then the loss; then those without scores, and those that failed last."""
        metric = self.search.metric[0]

        def key(trial: Trial) -> tuple:
            # One that failed, as by diverging, is no candidate, whatever it reached before.
            return trial.status == FAILED, trial.score(metric), trial.score("loss"), trial.number

        return sorted(self.trials.values(), key=key)

    def best(self) -> Trial | None:
        ranked = self.ranked()
        return ranked[0] if ranked and ranked[0].scores and ranked[0].status != FAILED else None

    def front(self) -> list[Trial]:
        """With two metrics the trials that none other beats in both, best first in the first metric."""
        candidates = [trial for trial in self.ranked() if trial.scores and trial.status != FAILED]
        points = [(trial, tuple(map(trial.score, self.search.metric))) for trial in candidates]
        return [trial for trial, point in points if not any(_dominates(other, point) for _, other in points)]


def _flat(identity: dict) -> dict[str, Any]:
    """What a search is, by words that a user knows: dotted keys of the search file, the configuration, the data."""
    found = {f"search.{key}": value for key, value in identity.get("search", {}).items() if key != "fixed"}
    for group, values in identity.get("configuration", {}).items():
        of_group = values if isinstance(values, dict) else {"": values}
        found |= {f"configuration.{group}.{key}".rstrip("."): value for key, value in of_group.items()}
    return found | {f"data: {name}": value for name, value in identity.get("data", {}).items()}


def _dominates(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    return other != point and all(theirs <= ours for theirs, ours in zip(other, point, strict=True))
