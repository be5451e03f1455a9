"""Ray Tune's schedulers as a search uses them, without a cluster."""

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
    """What a scheduler reads of Tune's."""

    name: str
    values: dict = field(default_factory=dict)

    @property
    def trial_id(self) -> str:
        return f"id-{self.name}"

    @property
    def config(self) -> dict:
        return {"trial": {"name": self.name, "values": self.values}}


def made(tmp_path, *known: Trial, **scheduler: dict) -> schedulers.TrialScheduler:
    search = Search(search=SPACE, scheduler=scheduler)
    return schedulers.make(
        search, Experiment(Directory(tmp_path), search, TREE, {trial.name: trial for trial in known})
    )


def population_search() -> Search:
    return Search(search=SPACE)


def decisions(scheduler: schedulers.TrialScheduler, cers: dict[str, float], share: float) -> dict[str, str]:
    """What becomes of each trial in turn."""
    trials = {name: FakeTrial(name) for name in cers}
    for trial in trials.values():
        scheduler.on_trial_add(None, trial)
    return {
        name: scheduler.on_trial_result(None, trials[name], {"share": share, "cer": cer}) for name, cer in cers.items()
    }


def test_asha_stops_what_is_behind_at_a_rung_and_spares_the_base(tmp_path):
    found = decisions(made(tmp_path, asha={"reduction": 2}), {"1": 0.2, "2": 0.1, "3": 0.9, BASE: 0.95}, 0.5)
    assert found == {"1": "CONTINUE", "2": "CONTINUE", "3": "STOP", BASE: "CONTINUE"}


def test_asha_leaves_alone_what_has_not_done_the_share_of_grace(tmp_path):
    found = decisions(made(tmp_path, asha={"grace": 0.5, "reduction": 2}), {"1": 0.1, "2": 0.9}, 0.4)
    assert set(found.values()) == {"CONTINUE"}


def test_what_the_base_reaches_is_a_mark_for_others(tmp_path):
    found = decisions(made(tmp_path, asha={"reduction": 2}), {BASE: 0.1, "1": 0.9}, 0.5)
    assert found["1"] == "STOP"


def test_after_a_resume_trials_are_held_to_what_earlier_ones_reached(tmp_path):
    known = Trial("1", {}, evaluations=[evaluation(5, 0.1)])
    assert decisions(made(tmp_path, known, asha={"reduction": 2}), {"2": 0.9}, 0.5) == {"2": "STOP"}


def test_a_resumed_trial_is_not_judged_twice_at_a_rung(tmp_path):
    """Its own mark of before lies under its name, whatever Tune calls it now."""
    known = [Trial("1", {}, evaluations=[evaluation(5, 0.9)]), Trial("2", {}, evaluations=[evaluation(5, 0.1)])]
    assert decisions(made(tmp_path, *known, asha={"reduction": 2}), {"1": 0.9}, 0.5) == {"1": "CONTINUE"}


def test_a_trial_at_its_end_takes_nothing_over(tmp_path):
    population = made(tmp_path, pbt={})
    assert population.on_trial_result(None, FakeTrial("1"), {"share": 1.0, "cer": 0.9}) == "CONTINUE"


def test_progress_without_scores_changes_nothing(tmp_path):
    for scheduler in (made(tmp_path, asha={}), made(tmp_path, pbt={})):
        trial = FakeTrial("1")
        if isinstance(scheduler, schedulers.Halving):
            scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"progress": {"share": 0.5}}) == "CONTINUE"


@pytest.mark.parametrize("seed", range(30))
def test_values_that_are_handed_over_stay_within_the_search_and_the_name_with_the_trial(tmp_path, seed):
    random.seed(seed)
    population = made(tmp_path, pbt={})
    values = {
        "training.learning_rate": 9.9e-3,
        "model.keep_prob": 0.95,
        "augmentation.contrast.strength": 0.6,
        "training.weight_decay": 0.06,
    }
    new, _ = population._get_new_config(FakeTrial("2"), FakeTrial("1", values))
    assert new["trial"]["name"] == "2"
    handed = new["trial"]["values"]
    assert 1e-4 <= handed["training.learning_rate"] <= 1e-2
    assert 0.5 <= handed["model.keep_prob"] <= 1.0
    assert handed["augmentation.contrast.strength"] in (0.0, 0.3, 0.6)
    assert handed["training.weight_decay"] in [pytest.approx(0.02 * step) for step in range(6)]
    # What came of it is a trial of the space that was searched.
    importances(population_search(), [(handed, {"cer": 0.1 * number}) for number in range(5)])


def test_without_a_scheduler_trials_run_to_their_end(tmp_path):
    assert isinstance(made(tmp_path), schedulers.FIFOScheduler)
