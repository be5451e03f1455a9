"""Test searches over decoding.* alone."""

import csv
import json
from pathlib import Path

import pytest

from raycrnn import config, evaluate
from raycrnn.data.alphabet import Alphabet
from raycrnn.language import arpa, kneser_ney
from raycrnn.model.calibration import Calibration
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer
from raycrnn.training.run import train
from raycrnn.tune import Tune
from raycrnn.tuning import decoding_search
from raycrnn.tuning.decoding_search import EvaluationSet
from tests.conftest import GLYPHS, words, write_set
from tests.test_train import configuration

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def trained(local_ray, tmp_path_factory) -> Path:
    """A directory with a model that makes many errors, so that decodings differ."""
    folder = tmp_path_factory.mktemp("decodings")
    train(configuration(folder, count=64, training={"n_epochs": 12}))
    return folder


def run_search(trained: Path, folder: Path, text: str, *options: str) -> int:
    (folder / "search.yaml").write_text(text)
    labels = str(trained / "labels.csv")
    tree = {"data": {"csv_files_train": labels, "csv_files_eval": labels}, "output_model_dir": str(folder / "found")}
    (folder / "config.json").write_text(json.dumps(tree))
    model = str(trained / "output" / "model")
    return Tune.call([str(folder / "config.json"), str(folder / "search.yaml"), "--model", model, *options], "tune")


@pytest.mark.long
def test_each_trial_has_the_scores_of_evaluate(trained, tmp_path, capsys):
    text = "search:\n  decoding.method: {grid: [greedy, beam]}\n  decoding.beam_width: {grid: [2, 50]}\n"
    assert run_search(trained, tmp_path, text, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [trial["trial"] for trial in result["trials"]] == ["base", "1", "2", "3", "4"]
    for trial in result["trials"]:
        overrides = ["decoding.readings=1", *(f"{key}={value}" for key, value in trial["values"].items())]
        report = evaluate.evaluate(str(trained / "output" / "model"), [str(trained / "labels.csv")], overrides, "local")
        assert trial["cer"] == pytest.approx(report.counts.cer)
        assert trial["accuracy"] == pytest.approx(report.counts.accuracy)
    with (tmp_path / "found" / "results.csv").open(newline="") as file:
        assert [row["decoding.method"] for row in csv.DictReader(file)] == [
            '"beam"',
            *['"greedy"'] * 2,
            *['"beam"'] * 2,
        ]


def test_outputs_that_are_too_large_to_keep_are_computed_for_each_trial(tmp_path, capsys, monkeypatch):
    csv_file = write_set(tmp_path, words(6))
    settings = config.parse({"data": {"csv_files_train": str(csv_file)}, "model": {"size": "quarter"}})
    alphabet = Alphabet(tuple(GLYPHS))
    network = CRNN.from_settings(settings.model, settings.image, len(alphabet) + 1)
    Recognizer(network, settings, alphabet, {"cer": 1.0}).save(tmp_path / "output" / "model")
    runs, scores = [], []
    original = Recognizer.log_probs
    monkeypatch.setattr(Recognizer, "log_probs", lambda *given: runs.append(1) or original(*given))
    for limit, expected in ((2**30, 1), (0, 3)):
        monkeypatch.setattr(decoding_search, "MAX_KEPT_BYTES", limit)
        runs.clear()
        folder = tmp_path / str(limit)
        folder.mkdir()
        assert run_search(tmp_path, folder, "search:\n  decoding.beam_width: {grid: [2, 50]}\n", "--json") == 0
        captured = capsys.readouterr()
        assert len(runs) == expected
        assert ("runs again for each trial" in captured.err) == (limit == 0)
        scores.append([trial["cer"] for trial in json.loads(captured.out.splitlines()[-1])["trials"]])
    assert scores[0] == scores[1]


def test_language_models_and_their_weights_are_searched(tmp_path, capsys):
    csv_file = write_set(tmp_path, words(6))
    settings = config.parse({"data": {"csv_files_train": str(csv_file)}, "model": {"size": "quarter"}})
    alphabet = Alphabet(tuple(GLYPHS))
    network = CRNN.from_settings(settings.model, settings.image, len(alphabet) + 1)
    Recognizer(network, settings, alphabet, {"cer": 1.0}).save(tmp_path / "output" / "model")
    (tmp_path / "a.arpa").write_bytes(arpa.to_bytes(kneser_ney.estimate(words(50), 3)))
    text = f"""
search:
  decoding.language_model: {{grid: [null, labels, {tmp_path}/a.arpa]}}
  decoding.language_model_weight: {{grid: [0.0, 2.0]}}
fixed: {{decoding.insertion_bonus: 3.0}}
metric: accuracy
"""
    assert run_search(tmp_path, tmp_path, text, "--json") == 0
    trials = json.loads(capsys.readouterr().out.splitlines()[-1])["trials"][1:]
    assert [trial["status"] for trial in trials] == ["finished"] * 2 + ["failed"] * 2 + ["finished"] * 2
    with (tmp_path / "found" / "results.csv").open(newline="") as file:
        assert "the model has no language model" in list(csv.DictReader(file))[3]["error"]
    # Without a language model, neither the weight nor the bonus counts.
    assert trials[0]["cer"] == trials[1]["cer"]
    assert trials[4]["cer"] != trials[0]["cer"]


@pytest.fixture
def strong() -> Recognizer:
    """A model with a language model, whose strength is not the default, and a calibration for it."""
    decoding = {"language_model_weight": 0.8, "insertion_bonus": 2.0}
    tree = {"data": {"csv_files_train": "x.csv"}, "model": {"size": "quarter"}, "decoding": decoding}
    settings, alphabet = config.parse(tree), Alphabet(tuple(GLYPHS))
    network = CRNN.from_settings(settings.model, settings.image, len(alphabet) + 1)
    language_model = kneser_ney.estimate([tuple(text) for text in words(50)], 3, alphabet.units)
    calibration = Calibration(with_language_model=Calibration(samples=7))
    return Recognizer(network, settings, alphabet, {}, calibration=calibration, language_model=language_model)


@pytest.mark.parametrize(
    ("decoding", "strength", "is_calibrated"),
    [
        ({}, (0.8, 2.0), True),
        ({"beam_width": 3}, (0.8, 2.0), True),
        ({"language_model_weight": 0.1}, (0.1, 2.0), False),
        ({"insertion_bonus": 1.0}, (0.8, 1.0), False),
        ({"language_model": None}, (0.8, 2.0), False),
    ],
)
def test_a_trial_has_the_strength_of_the_model_unless_it_sets_another(strong, decoding, strength, is_calibrated):
    tree = {"data": {"csv_files_train": "x.csv"}, "decoding": decoding}
    tree = decoding_search._with_stored_strength(tree, config.parse(tree), strong)
    scores = {"cer": 0.1, "wer": 0.2, "accuracy": 0.3}
    found = decoding_search._with_decoding(EvaluationSet(strong, [], []), config.parse(tree), scores)
    own = found.configuration.decoding
    assert (own.language_model_weight, own.insertion_bonus) == strength
    assert (found.calibration.with_language_model is not None) == is_calibrated


def test_the_best_model_differs_only_in_its_decoding(trained, tmp_path, capsys):
    text = "search:\n  decoding.beam_width: {grid: [3]}\nmetric: speed\n"
    assert run_search(trained, tmp_path, text, "decoding.beam_width=2000", "--json") == 0
    best = json.loads(capsys.readouterr().out.splitlines()[-1])["best"]
    assert best["trial"] == "1"
    before, after = (
        Recognizer.load(each, "cpu") for each in (trained / "output" / "model", tmp_path / "found/best/model")
    )
    assert after.configuration.decoding.beam_width == 3
    assert after.configuration.model_copy(update={"decoding": before.configuration.decoding}) == before.configuration
    assert after.metrics["cer"] == best["cer"]
    for name, tensor in before.network.state_dict().items():
        assert tensor.equal(after.network.state_dict()[name])


def test_values_that_are_invalid_together_fail_their_trial_alone(trained, tmp_path, capsys):
    text = """
search:
  decoding.method: {grid: [greedy, beam]}
  decoding.num_beam_paths: {choice: [3]}
algorithm: tpe
"""
    assert run_search(trained, tmp_path, text, "--json") == 0
    first, second = json.loads(capsys.readouterr().out.splitlines()[-1])["trials"][1:]
    assert (first["status"], second["status"]) == ("failed", "finished")
    with (tmp_path / "found" / "results.csv").open(newline="") as file:
        assert "num_beam_paths needs method=beam" in list(csv.DictReader(file))[1]["error"]


def test_the_metric_loss_is_refused(trained, tmp_path, capsys):
    assert run_search(trained, tmp_path, "search:\n  decoding.beam_width: {choice: [3]}\nmetric: loss\n") == 2
    assert "decoding does not change it" in capsys.readouterr().err


def test_unreadable_images_are_left_out_up_to_the_limit(trained, tmp_path, capsys):
    source = write_set(tmp_path, words(8))
    (tmp_path / "images" / "labels_3.png").write_text("no image")
    overrides = [f'data.csv_files_eval=["{source}"]', "data.max_rejected=0.2"]
    assert run_search(trained, tmp_path, "search:\n  decoding.beam_width: {grid: [3]}\n", *overrides) == 0
    assert "not an image" in capsys.readouterr().err
    (tmp_path / "again").mkdir()
    assert run_search(trained, tmp_path / "again", "search:\n  decoding.beam_width: {grid: [3]}\n", overrides[0]) == 1
    assert "more than data.max_rejected" in capsys.readouterr().err
