"""Test the schedulers of a search without a cluster."""

import random
from dataclasses import dataclass, field

import pytest

from raycrnn.storage import Directory
from raycrnn.tuning import schedulers
from raycrnn.tuning.experiment import Experiment, Trial
from raycrnn.tuning.sampler import BASE, importances
from raycrnn.tuning.search_space import Search
from tests.tuning.test_experiment import TREE, evaluation

SPACE = {
    "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.keep_prob": {"uniform": [0.5, 1.0]},
    "augmentation.contrast.strength": {"choice": [0.0, 0.3, 0.6]},
    "training.weight_decay": {"quniform": [0.0, 0.1, 0.02]},
}


@dataclass
class FakeTrial:
    """The attributes of a Tune trial that a scheduler reads."""

    name: str
    values: dict = field(default_factory=dict)

    @property
    def trial_id(self) -> str:
        return f"id-{self.name}"

    @property
    def config(self) -> dict:
        return {"trial": {"name": self.name, "values": self.values}}


def make_scheduler(tmp_path, *known: Trial, **scheduler: dict) -> schedulers.TrialScheduler:
    search = Search(search=SPACE, scheduler=scheduler)
    return schedulers.make(
        search, Experiment(Directory(tmp_path), search, TREE, {trial.name: trial for trial in known})
    )


def population_search() -> Search:
    return Search(search=SPACE)


def decisions(scheduler: schedulers.TrialScheduler, cers: dict[str, float], share: float) -> dict[str, str]:
    """Return the decision about each trial, in order."""
    trials = {name: FakeTrial(name) for name in cers}
    for trial in trials.values():
        scheduler.on_trial_add(None, trial)
    return {
        name: scheduler.on_trial_result(None, trials[name], {"share": share, "cer": cer, "loss": 1.0})
        for name, cer in cers.items()
    }


@pytest.mark.parametrize(
    ("asha", "rungs"),
    [
        ({}, [0.3]),
        ({"reduction": 1.5}, [0.3, 0.45]),
        ({"grace": 0.25, "reduction": 2}, [0.25, 0.5]),
        ({"grace": 0.1}, [0.1, 0.3]),
        # A later first rung, if a search file says so.
        ({"grace": 0.8, "reduction": 1.1}, [0.8]),
    ],
)
def test_asha_compares_trials_between_the_grace_share_and_half_of_the_training(tmp_path, asha, rungs):
    halving = make_scheduler(tmp_path, asha=asha)
    trials = {name: FakeTrial(name) for name in ("good", "bad")}
    stopped = []
    for percent in range(1, 100):
        results = {"good": {"cer": 0.1, "loss": 1.0}, "bad": {"cer": 0.9, "loss": 9.0}}
        decided = {
            name: halving.on_trial_result(None, trials[name], {"share": percent / 100, **each})
            for name, each in results.items()
        }
        if decided["bad"] == "STOP":
            stopped.append(percent / 100)
    assert stopped == pytest.approx(rungs, abs=0.011)


def test_where_the_metric_is_the_same_the_loss_decides(tmp_path):
    halving = make_scheduler(tmp_path, asha={"reduction": 2})
    losses = {"1": 20.0, "2": 21.0, "3": 19.0, "4": float("inf")}
    found = {
        name: halving.on_trial_result(None, FakeTrial(name), {"share": 0.3, "cer": 1.0, "loss": loss})
        for name, loss in losses.items()
    }
    assert found == {"1": "CONTINUE", "2": "STOP", "3": "CONTINUE", "4": "STOP"}
    better = {"share": 0.3, "cer": 0.999, "loss": 99.0}
    assert halving.on_trial_result(None, FakeTrial("5"), better) == "CONTINUE"


def test_asha_stops_bad_trials_at_a_rung_but_never_the_base(tmp_path):
    found = decisions(make_scheduler(tmp_path, asha={"reduction": 2}), {"1": 0.2, "2": 0.1, "3": 0.9, BASE: 0.95}, 0.5)
    assert found == {"1": "CONTINUE", "2": "CONTINUE", "3": "STOP", BASE: "CONTINUE"}


def test_asha_stops_no_trial_before_the_grace_share(tmp_path):
    found = decisions(make_scheduler(tmp_path, asha={"grace": 0.5, "reduction": 2}), {"1": 0.1, "2": 0.9}, 0.4)
    assert set(found.values()) == {"CONTINUE"}


def test_trials_are_compared_with_the_base(tmp_path):
    found = decisions(make_scheduler(tmp_path, asha={"reduction": 2}), {BASE: 0.1, "1": 0.9}, 0.5)
    assert found["1"] == "STOP"


def test_after_a_resume_trials_are_compared_with_earlier_ones(tmp_path):
    known = Trial("1", {}, evaluations=[evaluation(5, 0.1)])
    assert decisions(make_scheduler(tmp_path, known, asha={"reduction": 2}), {"2": 0.9}, 0.5) == {"2": "STOP"}


def test_a_resumed_trial_is_not_judged_twice_at_a_rung(tmp_path):
    """Results are recorded by the name of the trial, because Tune's id differs after a resume."""
    known = [Trial("1", {}, evaluations=[evaluation(5, 0.9)]), Trial("2", {}, evaluations=[evaluation(5, 0.1)])]
    assert decisions(make_scheduler(tmp_path, *known, asha={"reduction": 2}), {"1": 0.9}, 0.5) == {"1": "CONTINUE"}


def test_a_complete_trial_takes_over_no_weights(tmp_path):
    population = make_scheduler(tmp_path, pbt={})
    assert population.on_trial_result(None, FakeTrial("1"), {"share": 1.0, "cer": 0.9}) == "CONTINUE"


def test_progress_without_scores_is_ignored(tmp_path):
    for scheduler in (make_scheduler(tmp_path, asha={}), make_scheduler(tmp_path, pbt={})):
        trial = FakeTrial("1")
        if isinstance(scheduler, schedulers.Halving):
            scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"progress": {"share": 0.5}}) == "CONTINUE"


@pytest.mark.parametrize("seed", range(30))
def test_exchanged_values_stay_in_the_search_space_and_the_trial_keeps_its_name(tmp_path, seed):
    random.seed(seed)
    population = make_scheduler(tmp_path, pbt={})
    values = {
        "training.learning_rate": 9.9e-3,
        "model.keep_prob": 0.95,
        "augmentation.contrast.strength": 0.6,
        "training.weight_decay": 0.06,
    }
    new, _ = population._get_new_config(FakeTrial("2"), FakeTrial("1", values))
    assert new["trial"]["name"] == "2"
    exchanged = new["trial"]["values"]
    assert 1e-4 <= exchanged["training.learning_rate"] <= 1e-2
    assert 0.5 <= exchanged["model.keep_prob"] <= 1.0
    assert exchanged["augmentation.contrast.strength"] in (0.0, 0.3, 0.6)
    assert exchanged["training.weight_decay"] in [pytest.approx(0.02 * step) for step in range(6)]
    # The result must be a valid trial of the search space.
    importances(population_search(), [(exchanged, {"cer": 0.1 * number}) for number in range(5)])


def test_without_a_scheduler_trials_run_to_their_end(tmp_path):
    assert isinstance(make_scheduler(tmp_path), schedulers.FIFOScheduler)
