"""Test the records of a search's trials and their ranking."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.tuning.experiment import FINISHED, RUNNING, Experiment, Trial
from raycrnn.tuning.search_space import Search

TREE = {"data": {"csv_files_train": ["train.csv"], "csv_files_eval": ["eval.csv"]}}


def evaluation(step: int, cer: float, best: bool = True, **more: float) -> dict:
    scores = {"cer": cer, "wer": cer, "accuracy": 1 - cer, "loss": cer, "speed": 100.0}
    return {"step": step, "epoch": step, "share": step / 10, "seconds": 6.0 * step, "best": best, **scores, **more}


def trials_of(output: Path, metric: str | list = "cer", **of: list[dict]) -> Experiment:
    """Return an experiment with these evaluations by trial (`t1` for trial 1)."""
    search = Search(search={"model.keep_prob": {"uniform": [0.5, 1]}}, metric=metric, samples=9)
    found = Experiment(Directory(output), search, TREE)
    for name, evaluations in of.items():
        number = name.removeprefix("t")
        values = {} if name == "base" else {"model.keep_prob": 0.5 + float(number) / 100}
        found.add(Trial(number, values, FINISHED, list(evaluations), done=1.0))
    return found


def test_a_trial_is_loaded_as_it_was_saved(tmp_path):
    before = trials_of(tmp_path, base=[evaluation(1, 0.5)], t1=[evaluation(1, 0.4), evaluation(2, 0.6, best=False)])
    before.trials["1"].took_over.append("3 at 20 %")
    before.trials["1"].error = "größer ſ"
    before.save(before.trials["1"])
    before.save_search()
    after = Experiment(Directory(tmp_path), before.search, TREE)
    after.load()
    assert after.trials == before.trials
    assert list(after.trials) == ["base", "1"]


def test_trials_are_loaded_in_the_order_of_their_numbers(tmp_path):
    before = trials_of(tmp_path, **{f"t{number}": [] for number in (10, 9, 1)}, base=[])
    before.save_search()
    after = Experiment(Directory(tmp_path), before.search, TREE)
    after.load()
    assert list(after.trials) == ["base", "1", "9", "10"]


def test_the_scores_are_those_of_the_last_exported_model(tmp_path):
    [trial] = trials_of(
        tmp_path, t1=[evaluation(1, 0.5), evaluation(2, 0.3), evaluation(3, 0.4, best=False)]
    ).trials.values()
    assert trial.scores["cer"] == 0.3 and trial.scores["epoch"] == 2
    assert Trial("2", {}).scores is None


@pytest.mark.parametrize(
    ("metric", "order"),
    [("cer", ["2", "1", "base", "3"]), ("accuracy", ["2", "1", "base", "3"]), ("speed", ["base", "1", "2", "3"])],
)
def test_trials_are_ranked_by_the_first_metric(tmp_path, metric, order):
    found = trials_of(
        tmp_path,
        metric,
        base=[evaluation(1, 0.5, speed=900)],
        t1=[evaluation(1, 0.4, speed=300)],
        t2=[evaluation(1, 0.2, speed=200)],
        t3=[],
    )
    assert [trial.name for trial in found.ranked()] == order
    assert found.best().name == order[0]


def test_equal_scores_are_ranked_by_loss_and_then_by_number(tmp_path):
    found = trials_of(
        tmp_path, t1=[evaluation(1, 0.2, loss=3)], t2=[evaluation(1, 0.2, loss=2)], t3=[evaluation(1, 0.2, loss=2)]
    )
    assert [trial.name for trial in found.ranked()] == ["2", "3", "1"]


def test_without_scores_no_trial_is_best(tmp_path):
    assert trials_of(tmp_path, base=[], t1=[]).best() is None


@given(points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_no_trial_beats_one_of_the_pareto_front_in_both_metrics(tmp_path_factory, points):
    evaluations = {f"t{i + 1}": [evaluation(1, cer, speed=speed)] for i, (cer, speed) in enumerate(points)}
    found = trials_of(tmp_path_factory.mktemp("front"), ["cer", "speed"], **evaluations)
    front = {trial.name for trial in found.pareto_front()}
    for i, (cer, speed) in enumerate(points):
        beaten = any(c <= cer and s >= speed and (c, s) != (cer, speed) for c, s in points)
        assert (str(i + 1) in front) != beaten


def test_a_different_search_is_refused_with_the_differences(tmp_path):
    before = trials_of(tmp_path, base=[])
    before.save_search()
    other = Search(search={"model.keep_prob": {"uniform": [0.6, 1]}}, samples=9)
    with pytest.raises(UsageError, match=r"search\.search: was .*0\.5.*, is now .*0\.6"):
        Experiment(Directory(tmp_path), other, TREE).load()
    with pytest.raises(UsageError, match=r"\(configuration\.training\.n_epochs: was null, is now 2\)"):
        Experiment(Directory(tmp_path), before.search, {**TREE, "training": {"n_epochs": 2}}).load()


def test_time_limit_number_of_trials_and_resources_may_change(tmp_path):
    before = trials_of(tmp_path, base=[])
    before.save_search()
    changed = {"samples": 99, "max_minutes": 5, "concurrent": 1, "resources": {"cpus": 2}}
    Experiment(Directory(tmp_path), Search(search={"model.keep_prob": {"uniform": [0.5, 1]}}, **changed), TREE).load()


def test_changed_data_is_refused_by_name(tmp_path):
    before = trials_of(tmp_path, base=[])
    before.data = {"train.csv": "abc", "units": ["a"]}
    before.save_search()
    after = Experiment(Directory(tmp_path), before.search, TREE, data={"train.csv": "abd", "units": ["a"]})
    with pytest.raises(UsageError, match=r"\(data: train\.csv changed\)"):
        after.load()


@pytest.mark.parametrize("weights", [None, 2.0])
def test_data_that_has_moved_is_the_same_and_changed_data_is_named(tmp_path, weights):
    def tree(folder: str) -> dict:
        csv = f"{folder}/train.csv"
        return {"data": {"csv_files_train": {csv: weights} if weights else csv, "csv_files_eval": [f"{folder}/e.csv"]}}

    before = trials_of(tmp_path, base=[])
    before.tree, before.data = tree("here"), {"here/train.csv": "abc", "here/e.csv": "efg", "units": ["a"]}
    before.save_search()
    data = {"there/train.csv": "abc", "there/e.csv": "efg", "units": ["a"]}
    Experiment(Directory(tmp_path), before.search, tree("there"), data=data).load()
    with pytest.raises(UsageError, match=r"\(data: there/e\.csv changed\)"):
        Experiment(Directory(tmp_path), before.search, tree("there"), data={**data, "there/e.csv": "x"}).load()
    more = {"data": {**tree("there")["data"], "csv_files_eval": ["there/e.csv", "there/f.csv"]}}
    with pytest.raises(UsageError, match=r"csv_files_eval: was"):
        Experiment(Directory(tmp_path), before.search, more, data=data).load()


def test_the_grace_of_asha_may_change_because_its_default_did(tmp_path):
    before = trials_of(tmp_path, base=[])
    space = {"model.keep_prob": {"uniform": [0.5, 1]}}
    before.search = Search(search=space, scheduler={"asha": {"grace": 0.1}})
    before.save_search()
    Experiment(Directory(tmp_path), Search(search=space, scheduler="asha"), TREE).load()
    with pytest.raises(UsageError, match=r"search\.scheduler: was"):
        Experiment(Directory(tmp_path), Search(search=space, scheduler={"asha": {"reduction": 2}}), TREE).load()


def test_evaluations_that_were_not_reported_are_read_from_metrics_jsonl(tmp_path):
    before = trials_of(tmp_path, t1=[evaluation(1, 0.5)])
    before.save_search()
    lines = [evaluation(1, 0.5), evaluation(2, 0.25)]
    path = tmp_path / "trials" / "1" / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"torn')
    after = Experiment(Directory(tmp_path), before.search, TREE)
    after.load()
    assert after.trials["1"].scores["cer"] == 0.25
    assert (after.trials["1"].done, after.trials["1"].minutes) == (0.2, 0.2)


def test_a_directory_without_a_search_cannot_be_resumed(tmp_path):
    with pytest.raises(UsageError, match="contains no search to resume"):
        trials_of(tmp_path).load()


def test_a_trial_is_saved_as_json(tmp_path):
    found = trials_of(tmp_path, t1=[evaluation(1, 0.5)])
    found.trials["1"].status = RUNNING
    found.save(found.trials["1"])
    assert json.loads((tmp_path / "trials" / "1" / "trial.json").read_text())["status"] == "running"


def test_the_base_has_the_values_of_the_configuration(tmp_path):
    found = trials_of(tmp_path, base=[], t1=[])
    assert found.values_of(found.base) == {"model.keep_prob": 0.8}
    assert found.values_of(found.trials["1"]) == {"model.keep_prob": 0.51}
