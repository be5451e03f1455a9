"""Test the results of a search: its files and its summary."""

import csv
import json
from pathlib import Path

import pytest

from raycrnn import config
from raycrnn.errors import RaycrnnError
from raycrnn.tuning import results
from raycrnn.tuning.experiment import FAILED, STOPPED, Experiment, Trial
from tests.tuning.test_experiment import evaluation, trials_of


def save_model(best: Trial, path: Path) -> None:
    path.mkdir()
    (path / "model.safetensors").write_text(best.name)


@pytest.fixture
def found(tmp_path, monkeypatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    trials = trials_of(tmp_path / "out", base=[evaluation(10, 0.5)], t1=[evaluation(4, 0.25)], t2=[], t3=[])
    trials.trials["1"].status, trials.trials["1"].done = STOPPED, 0.4
    trials.trials["2"].status, trials.trials["2"].error = FAILED, 'diverged, "badly"\nat step 3'
    return trials


def test_results_csv_has_one_row_per_trial_including_the_base(found):
    results.write(found, save_model)
    with (found.path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["base", "1", "2", "3"]
    assert [row["model.keep_prob"] for row in rows] == ["0.8", "0.51", "0.52", "0.53"]
    assert (rows[1]["cer"], rows[1]["status"], rows[1]["share"]) == ("0.25", "stopped", "0.4")
    assert (rows[2]["cer"], rows[2]["error"]) == ("", 'diverged, "badly"\nat step 3')


def test_best_config_is_complete_and_valid_for_train(found):
    results.write(found, save_model)
    configuration = config.load(found.path / "best_config.json")
    assert configuration.model.keep_prob == 0.51
    assert configuration.output_model_dir == "output-best"
    # Without the strength of a language model, which training chooses, as it did for the trial.
    complete = configuration.model_dump(mode="json")
    weight, bonus = complete["decoding"].pop("language_model_weight"), complete["decoding"].pop("insertion_bonus")
    assert config.read_json_object(found.path / "best_config.json") == complete
    found.tree["decoding"] = {"language_model_weight": weight + 0.1}
    results.write(found, save_model)
    own = config.read_json_object(found.path / "best_config.json")["decoding"]
    assert own["language_model_weight"] == weight + 0.1 and "insertion_bonus" not in own
    assert bonus == config.parse(found.tree).decoding.insertion_bonus


def test_the_best_model_replaces_an_earlier_one(found):
    results.write(found, save_model)
    found.trials["3"].evaluations.append(evaluation(10, 0.1))
    results.write(found, save_model)
    assert (found.path / "best" / "model" / "model.safetensors").read_text() == "3"
    assert not list(found.path.glob(".best*"))


def test_the_summary_compares_with_the_base_and_names_the_next_commands(found):
    results.write(found, save_model)
    text = results.SearchResult(found).describe({**found.tree, "training": {"n_epochs": 7}})
    assert "best: trial 1: CER 25.00 % (base 50.00 %), exact 75.00 % (base 50.00 %)" in text
    assert "the best trial did 40 % of its training, the base 100 %" in text
    assert "model.keep_prob = 0.51" in text
    assert "raycrnn predict out/best/model images/" in text
    assert "raycrnn train out/best_config.json\n" in text


def test_the_summary_proposes_the_users_epochs_if_the_search_fixed_fewer(found):
    search = found.search.model_copy(update={"fixed": {"training.n_epochs": 2}})
    found = Experiment(found.output, search, found.tree, found.trials)
    text = results.SearchResult(found).describe({**found.tree, "training": {"n_epochs": 7}})
    assert "best_config.json training.n_epochs=7" in text
    assert "best_config.json training.n_epochs=null\n" in results.SearchResult(found).describe(found.tree)


def test_the_summary_says_if_the_base_is_best(found):
    found.trials.pop("1")
    assert "best: the base: CER 50.00 %, exact 50.00 %\n" in results.SearchResult(found).describe(found.tree)


def test_the_json_result_has_all_trials(found):
    result = json.loads(json.dumps(results.SearchResult(found).as_json()))
    assert result["best"]["trial"] == "1" and result["best"]["cer"] == 0.25 and result["base"]["cer"] == 0.5
    assert [trial["trial"] for trial in result["trials"]] == ["base", "1", "2", "3"]


def test_a_search_without_scores_fails_with_the_first_error(found):
    for trial in found.trials.values():
        trial.evaluations.clear()
    with pytest.raises(RaycrnnError, match=r"no trial has scores.*\ntrial 2: diverged"):
        results.write(found, save_model)
    assert (found.path / "results.csv").exists()
