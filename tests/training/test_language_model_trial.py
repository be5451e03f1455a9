"""Trying a language model when training ends: when it is stored, and the calibration of what it finds."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raycrnn import config
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import UNKNOWN
from raycrnn.errors import RaycrnnError
from raycrnn.language import kneser_ney
from raycrnn.metrics.error_rates import Counts, score
from raycrnn.model.batch import Batch
from raycrnn.model.calibration import Calibration
from raycrnn.model.decoding import LineDecoder, Outputs
from raycrnn.model.recognizer import Recognizer
from raycrnn.training import language_model_trial, language_models
from raycrnn.training.language_model_trial import LanguageModelTrial, Strength, try_language_model
from tests.model.test_recognizer import ALPHABET, recognizer

DEFAULT = Strength(0.5, 1.0)
UNITS = Alphabet(("a", "b"))
LINES = 40
ALTERNATING = kneser_ney.estimate([tuple("abababab")] * 5, 3, UNITS.units)
REPEATING = kneser_ney.estimate([tuple("aaaaaaaa"), tuple("bbbbbbbb")] * 5, 3, UNITS.units)


def uncertain_network(texts: Sequence[str]) -> SimpleNamespace:
    """Return a recognizer that is wrong about a third of the units of some texts, and never certain.

    The pixels of an image are the number of its text.
    """
    random = np.random.default_rng(0)

    def outputs_of(text: str) -> torch.Tensor:
        rows = []
        for unit in text:
            wrong = random.random() < 1 / 3
            right = UNITS.units.index(unit) ^ wrong
            rows += [[0.55, 0.4] if right == 0 else [0.4, 0.55], [0.01, 0.01]]
        table_TK = torch.tensor(rows)
        return torch.cat([table_TK, 1 - table_TK.sum(1, keepdim=True)], dim=1).log()

    outputs = [outputs_of(text) for text in texts]

    def log_probs(images):
        # The order of a recognizer is not that of the images.
        for place in reversed(range(len(images))):
            own_TK = outputs[images[place][0, 0, 0]]
            yield Outputs((place,), own_TK[:, None], torch.tensor([len(own_TK)]))

    return SimpleNamespace(alphabet=UNITS, decoder=LineDecoder(config.Decoding(), UNITS), log_probs=log_probs)


def batches(texts: Sequence[str], size: int = 7) -> list[Batch]:
    made = []
    for first in range(0, len(texts), size):
        numbers = torch.arange(first, min(first + size, len(texts)))
        own = [UNITS.encode_known(text, UNKNOWN) for text in texts[first : first + size]]
        made.append(
            Batch(
                numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 32, 40),
                torch.full((len(own),), 32),
                torch.tensor([code for codes in own for code in codes]),
                torch.tensor([len(codes) for codes in own]),
                numbers,
            )
        )
    return made


TEXTS = ["abababab"[: 4 + number % 5] for number in range(LINES)]


def test_a_language_model_helps_if_it_expects_the_texts():
    trial = try_language_model(uncertain_network(TEXTS), ALTERNATING, batches(TEXTS), [DEFAULT])
    assert len(trial.without) == len(trial.with_model) == LINES
    assert sum(trial.without, Counts()).cer == pytest.approx(1 / 3, abs=0.1)
    assert sum(trial.with_model, Counts()).cer < 0.1
    assert trial.helps
    assert trial.difference.value < -0.2
    assert trial.calibration.samples == LINES
    # The readings are mostly exact, which the calibration has learned.
    assert trial.calibration.confidence(np.log(0.9), 8, 16) > 0.8


@pytest.mark.parametrize("order", [1, -1])
def test_the_strength_with_the_fewest_errors_counts(order):
    """An insertion bonus that is much too small shortens the texts."""
    strengths = [Strength(0.5, 1.0), Strength(0.5, -9.0)][::order]
    trial = try_language_model(uncertain_network(TEXTS), ALTERNATING, batches(TEXTS), strengths)
    alone = try_language_model(uncertain_network(TEXTS), ALTERNATING, batches(TEXTS), [DEFAULT])
    assert trial.strength == DEFAULT
    assert trial.with_model == alone.with_model and trial.calibration == alone.calibration
    short = try_language_model(uncertain_network(TEXTS), ALTERNATING, batches(TEXTS), [Strength(0.5, -9.0)])
    assert sum(short.with_model, Counts()).unit_edits > sum(trial.with_model, Counts()).unit_edits


def test_a_language_model_of_other_texts_does_not_help():
    trial = try_language_model(uncertain_network(TEXTS), REPEATING, batches(TEXTS), [DEFAULT])
    assert not trial.helps
    assert sum(trial.with_model, Counts()).cer > sum(trial.without, Counts()).cer


def test_an_improvement_on_a_few_lines_may_be_chance():
    few = TEXTS[:2]
    trial = try_language_model(uncertain_network(few), ALTERNATING, batches(few), [DEFAULT])
    assert sum(trial.with_model, Counts()).cer <= sum(trial.without, Counts()).cer
    assert not trial.helps


@pytest.mark.parametrize(("corrected", "new", "helps"), [(2, 0, False), (3, 0, True), (7, 2, True), (4, 2, False)])
def test_it_helps_if_nine_of_ten_resamples_of_the_lines_have_fewer_errors(corrected, new, helps):
    """How often a line is drawn is about a Poisson variable, so 3 corrected lines are all missing in 5 % of resamples.

    That 7 corrected lines are drawn more often than 2 others has a probability of 0.94; for 4 lines it is 0.73.
    """
    right, wrong = score("abcd", "abcd"), score("abcd", "abcx")
    without = [*[wrong] * corrected, *[right] * (200 - corrected)]
    with_model = [*[right] * (200 - new), *[wrong] * new]
    trial = LanguageModelTrial(without, with_model, DEFAULT, Calibration())
    assert trial.helps is helps


def test_units_that_are_not_in_the_alphabet_are_errors_of_both():
    trial = try_language_model(uncertain_network(["abab"]), ALTERNATING, batches(["abxb"]), [DEFAULT])
    assert trial.without[0].unit_edits >= 1
    assert trial.with_model[0].unit_edits >= 1


def test_at_most_so_many_lines_are_read(monkeypatch):
    monkeypatch.setattr(language_model_trial, "MOST_LINES", 10)
    empty = batches(TEXTS)[0].split(1)[0]
    share = Batch(empty.images_BCHW, empty.widths_B, empty.codes_S[:0], empty.lengths_B[:0], empty.rows_B[:0])
    trial = try_language_model(uncertain_network(TEXTS), ALTERNATING, [share, *batches(TEXTS)], [DEFAULT])
    assert len(trial.without) == 10


HELPFUL = LanguageModelTrial(
    [Counts(1, 0, 2, 4, 1, 1)] * 9, [Counts(1, 1, 0, 4, 0, 1)] * 9, DEFAULT, Calibration(samples=9)
)
USELESS = LanguageModelTrial(HELPFUL.with_model, HELPFUL.without, DEFAULT, Calibration(samples=9))
MODEL = kneser_ney.estimate([("a", "b", "ſt")], 3, ALPHABET.units)


def conclude(
    folder: Path, trial: LanguageModelTrial | RaycrnnError, patch: pytest.MonkeyPatch, given=None, eval=True, **decoding
):
    """Conclude a run with a prepared trial, and return the model and what was reported."""
    original = recognizer(num_beam_paths=1, **decoding)
    Recognizer(original.network, original.configuration, ALPHABET, {}, language_model=given).save(folder / "model")

    def of_labels(*_):
        if isinstance(trial, RaycrnnError):
            raise trial
        return MODEL

    patch.setattr(language_models, "of_labels", of_labels)
    patch.setattr(language_models, "get", lambda job: given)

    def prepared(_recognizer, _language_model, _batches, strengths):
        assert trial.strength in strengths
        return trial

    patch.setattr(language_model_trial, "try_language_model", prepared)
    job = SimpleNamespace(
        configuration=original.configuration,
        data=SimpleNamespace(eval=SimpleNamespace(usable=9) if eval else None),
        language_model=given,
    )
    output = SimpleNamespace(path=folder, fetch=lambda *_: None, write=lambda name, write, step: write())
    reported: list[tuple[str, int]] = []
    reporter = SimpleNamespace(
        set_activity=lambda _: None,
        log=lambda text: reported.append((text, logging.INFO)),
        warning=lambda text: reported.append((text, logging.WARNING)),
    )
    language_model_trial.conclude(job, output, EmptySet(), torch.device("cpu"), reporter, 7)
    return Recognizer.load(folder / "model", "cpu"), reported


class EmptySet:
    problem = None

    def __iter__(self):
        yield from ()


def test_a_language_model_that_helps_is_stored_with_its_calibration(tmp_path, monkeypatch):
    model, reported = conclude(tmp_path, HELPFUL, monkeypatch)
    assert model.language_model.digest == MODEL.digest
    assert model.calibration.with_language_model == HELPFUL.calibration
    assert [level for _, level in reported] == [logging.INFO]
    assert reported[0][0].startswith(
        "a language model of the training labels is stored with the model: CER 50.00 % without it and 0.00 % with it "
        "(weight 0.5, bonus 1) on 9 evaluation lines (80 % interval of the difference -50.00 to -50.00 points)"
    )


def test_its_strength_is_stored_unless_the_configuration_sets_one(tmp_path, monkeypatch):
    strong = dataclasses.replace(HELPFUL, strength=Strength(0.8, 2.0))
    model, reported = conclude(tmp_path / "auto", strong, monkeypatch)
    decoding = model.configuration.decoding
    assert (decoding.language_model_weight, decoding.insertion_bonus) == (0.8, 2.0)
    assert "0.00 % with it (weight 0.8, bonus 2)" in reported[0][0]
    own = dataclasses.replace(HELPFUL, strength=Strength(0.6, 1.0))
    model, _ = conclude(tmp_path / "set", own, monkeypatch, language_model_weight=0.6)
    decoding = model.configuration.decoding
    assert (decoding.language_model_weight, decoding.insertion_bonus) == (0.6, 1.0)
    with pytest.raises(AssertionError):
        conclude(tmp_path / "refused", strong, monkeypatch, language_model_weight=0.6)


def test_one_that_does_not_help_is_not_stored(tmp_path, monkeypatch):
    model, reported = conclude(tmp_path, USELESS, monkeypatch)
    assert model.language_model is None
    assert reported[0][0].startswith("a language model of the training labels is not stored with the model: CER 0.00 %")


def test_one_that_was_given_is_stored_in_any_case(tmp_path, monkeypatch):
    model, reported = conclude(tmp_path, USELESS, monkeypatch, MODEL, language_model="labels")
    assert model.language_model.digest == MODEL.digest
    assert model.calibration.with_language_model == USELESS.calibration
    assert reported[0][0].startswith("the language model is stored with the model: CER 0.00 %")


def test_labels_without_units_are_no_failure(tmp_path, monkeypatch):
    model, reported = conclude(tmp_path, RaycrnnError("the texts are empty"), monkeypatch)
    assert model.language_model is None
    assert reported == [("no language model of the training labels is tried: the texts are empty", logging.INFO)]


@pytest.mark.parametrize(
    "settings",
    [{"language_model": None}, {"method": "greedy"}, {"lexicon": "words.txt"}, {"eval": False}],
    ids=["null", "greedy", "lexicon", "no evaluation rows"],
)
def test_nothing_is_tried_where_nothing_could_be_decided_or_used(tmp_path, monkeypatch, settings):
    decided = dict(settings)
    if "lexicon" in decided:
        monkeypatch.setattr(Recognizer, "load", lambda *_: None)
    _, reported = conclude(tmp_path, HELPFUL, monkeypatch, **decided)
    assert reported == []
    assert not (tmp_path / "model" / "language_model.safetensors").exists()


@pytest.mark.parametrize(("rows", "workers", "expected"), [(100, 1, 4.0), (1000, 1, 2.0), (1000, 2, 4.0), (0, 1, 4.0)])
def test_the_time_of_a_trial_is_reserved(rows, workers, expected):
    configuration = recognizer().configuration
    data = SimpleNamespace(eval=SimpleNamespace(usable=rows))
    job = SimpleNamespace(configuration=configuration, data=data, language_model=None)
    assert language_model_trial.relative_duration(job, workers) == expected
    data.eval = None
    assert language_model_trial.relative_duration(job, workers) == 0


def test_storage_that_fails_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(EmptySet, "problem", "bucket: not reachable")
    model, reported = conclude(tmp_path, HELPFUL, monkeypatch)
    assert model.language_model is None
    assert reported == [("no language model was tried: bucket: not reachable", logging.WARNING)]
