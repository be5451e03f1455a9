"""Recognizers with a language model, and the model directories that hold it."""

import pytest
import torch

from raycrnn import config
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import arpa, kneser_ney
from raycrnn.language.automaton import Automaton
from raycrnn.language.texts import in_display_order
from raycrnn.model.calibration import Calibration
from raycrnn.model.decoding import LineDecoder, Outputs
from raycrnn.model.model_files import LANGUAGE_MODEL, file_digests, overridden_language_model
from raycrnn.model.recognizer import Recognizer
from tests.model.test_recognizer import ALPHABET, lines, recognizer

MODEL = kneser_ney.estimate([("a", "b", "ſt"), ("b", "b", "a"), ("é", "a")], 3, ALPHABET.units)
OTHER = kneser_ney.estimate([("ſt", "ſt", "a")], 2)


def with_language_model(**decoding) -> Recognizer:
    plain = recognizer(language_model="labels", **decoding)
    return Recognizer(plain.network, plain.configuration, ALPHABET, plain.metrics, language_model=MODEL)


def texts(model: Recognizer) -> list[str]:
    return [transcription.text for transcription in model.transcribe(lines())]


def test_a_model_directory_holds_the_language_model(tmp_path):
    original = with_language_model()
    original.save(tmp_path / "model")
    loaded = Recognizer.load(tmp_path / "model", "cpu")
    assert loaded.language_model.digest == MODEL.digest
    assert loaded.transcribe(lines()) == original.transcribe(lines())
    assert texts(loaded) != texts(recognizer())
    card = (tmp_path / "model" / "README.md").read_text()
    assert "language model of the training labels (`language_model.safetensors`: n-grams of up to 3 units)" in card
    assert LANGUAGE_MODEL in file_digests(str(tmp_path / "model"))
    recognizer().save(tmp_path / "model")
    assert not (tmp_path / "model" / LANGUAGE_MODEL).exists()


def test_overrides_replace_the_language_model_or_turn_it_off(tmp_path):
    with_language_model().save(tmp_path / "model")
    (tmp_path / "other.arpa").write_bytes(arpa.to_bytes(OTHER))
    plain = Recognizer.load(tmp_path / "model", "cpu", ["decoding.language_model=null"])
    assert plain.language_model is None
    assert plain.transcribe(lines()) == recognizer().transcribe(lines())
    override = f"decoding.language_model={tmp_path}/other.arpa"
    other = Recognizer.load(tmp_path / "model", "cpu", [override])
    assert other.language_model.units == OTHER.units
    # A command reads the file once and passes the model on to workers, which may not have the file.
    read = overridden_language_model([override])
    (tmp_path / "other.arpa").unlink()
    assert Recognizer.load(tmp_path / "model", "cpu", [override], read).transcribe(lines()) == other.transcribe(lines())
    with pytest.raises(UsageError, match=r"other\.arpa: no such language model"):
        Recognizer.load(tmp_path / "model", "cpu", [override])


def test_units_that_the_language_model_lacks_are_named(tmp_path, caplog):
    recognizer().save(tmp_path / "model")
    (tmp_path / "other.arpa").write_bytes(arpa.to_bytes(OTHER))
    with caplog.at_level("INFO"):
        Recognizer.load(tmp_path / "model", "cpu", [f"decoding.language_model={tmp_path}/other.arpa"])
    assert "lacks 3 units of the alphabet, which have the probability of <unk>: 'b', 'c', 'é'" in caplog.text


def test_a_language_model_of_words_is_refused(tmp_path):
    recognizer().save(tmp_path / "model")
    words = kneser_ney.estimate([("hello", "world")], 2)
    (tmp_path / "words.arpa").write_bytes(arpa.to_bytes(words))
    with pytest.raises(UsageError, match="no unit of the alphabet, but such as 'hello', 'world': it must be a model"):
        Recognizer.load(tmp_path / "model", "cpu", [f"decoding.language_model={tmp_path}/words.arpa"])


def test_a_model_of_which_training_decides_uses_the_language_model_that_it_has(tmp_path):
    plain = recognizer()
    assert plain.configuration.decoding.language_model == "auto"
    plain.save(tmp_path / "without")
    assert Recognizer.load(tmp_path / "without", "cpu").language_model is None
    Recognizer(plain.network, plain.configuration, ALPHABET, {}, language_model=MODEL).save(tmp_path / "with")
    assert texts(Recognizer.load(tmp_path / "with", "cpu")) == texts(with_language_model())
    assert "language model of the training labels" in (tmp_path / "with" / "README.md").read_text()
    for overrides in (
        ["decoding.method=greedy", "decoding.num_beam_paths=1"],
        ["decoding.language_model=null"],
        ["decoding.language_model=auto", "decoding.method=greedy", "decoding.num_beam_paths=1"],
    ):
        assert Recognizer.load(tmp_path / "with", "cpu", overrides).language_model is None
    (tmp_path / "words.txt").write_text("ab\n")
    restricted = Recognizer.load(tmp_path / "with", "cpu", [f"decoding.lexicon={tmp_path}/words.txt"])
    assert set(texts(restricted)) == {"ab"}


def test_confidences_with_a_language_model_are_calibrated_for_that_model_alone(tmp_path):
    plain = recognizer(language_model="labels")
    # The confidence is the square root of the odds among the texts of the beam.
    calibration = Calibration(with_language_model=Calibration(weights=(0.0, 0.5, 0.0, 0.0)))
    model = Recognizer(plain.network, plain.configuration, ALPHABET, {}, None, calibration, MODEL)
    model.save(tmp_path / "model")
    raw = with_language_model().transcribe(lines())
    for own, before in zip(Recognizer.load(tmp_path / "model", "cpu").transcribe(lines()), raw, strict=True):
        odds = before.confidence / (1 - before.confidence)
        assert own.text == before.text
        assert own.confidence / (1 - own.confidence) == pytest.approx(odds**0.5, rel=1e-3)
        assert sum(each.confidence for each in own.alternatives) <= 1 + 1e-6
        assert sorted(own.alternatives, key=lambda each: -each.confidence) == list(own.alternatives)
    other = Recognizer.load(tmp_path / "model", "cpu", ["decoding.language_model_weight=0.4"])
    assert other.calibration.with_language_model is None


def test_a_missing_or_damaged_language_model_is_refused(tmp_path):
    with_language_model().save(tmp_path / "model")
    (tmp_path / "model" / LANGUAGE_MODEL).write_bytes(b"x" * 20)
    with pytest.raises(RaycrnnError, match=r"language_model\.safetensors: not an ARPA file"):
        Recognizer.load(tmp_path / "model", "cpu")
    (tmp_path / "model" / LANGUAGE_MODEL).unlink()
    with pytest.raises(UsageError, match="the model directory has no language model"):
        Recognizer.load(tmp_path / "model", "cpu")
    with pytest.raises(UsageError, match="language_model needs method=beam"):
        recognizer(method="greedy", num_beam_paths=1, language_model="labels")
    with pytest.raises(UsageError, match="lexicon and language_model cannot be used together"):
        recognizer(lexicon="words.txt", language_model="labels")


def test_the_score_is_the_difference_with_the_language_model_and_log_probs_are_without_it():
    model = with_language_model(language_model_weight=2.0)
    network = recognizer()
    for transcription, prepared in zip(model.transcribe(lines()), lines(), strict=True):
        assert transcription.score >= 0
        assert sum(each.confidence for each in transcription.alternatives) <= 1 + 1e-6
        # The confidence of a text is that of the network, whichever search found it.
        plain = network.transcribe([prepared], n_best=10)[0]
        same = [each for each in plain.alternatives if each.codes == transcription.codes]
        assert not same or same[0].log_prob == pytest.approx(transcription.log_prob, abs=0.1)


def test_a_transcription_with_a_language_model_does_not_depend_on_the_batch():
    model, images = with_language_model(), lines()
    together = model.transcribe(images)
    assert [model.transcribe([prepared])[0].text for prepared in images] == [each.text for each in together]


def test_right_to_left_text_is_scored_in_display_order():
    alphabet = Alphabet(("א", "ב"), "rtl")
    # The language model of a network for right-to-left text is estimated from labels in the order of the image.
    model = kneser_ney.estimate(in_display_order([("א", "ב", "ב")] * 9, "rtl"), 3)
    decoder = LineDecoder(
        config.Decoding(language_model="labels"), alphabet, language_model=Automaton(model, alphabet.units)
    )
    unit, blank = [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]
    log_probs_TBK = torch.tensor([[unit], [blank], [unit], [blank], [unit]]).log()
    best = decoder.decode(Outputs((0,), log_probs_TBK, torch.tensor([5])))[0][0]
    assert "".join(alphabet.decode(code for _, code in alphabet.in_logical_order(best.codes))) == "אבב"


def test_a_saved_model_has_no_language_model_if_a_lexicon_replaces_it(tmp_path):
    with_language_model().save(tmp_path / "model")
    restricted = Recognizer.load(tmp_path / "model", "cpu", lexicon=["ab", "cb"])
    restricted.save(tmp_path / "restricted")
    loaded = Recognizer.load(tmp_path / "restricted", "cpu")
    assert loaded.lexicon == restricted.lexicon
    assert loaded.language_model is None
    assert loaded.transcribe(lines()) == restricted.transcribe(lines())
    assert "language model" not in (tmp_path / "restricted" / "README.md").read_text()
