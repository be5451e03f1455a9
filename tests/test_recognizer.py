"""The model directory, and that what is read does not depend on how it is asked for."""

import json

import numpy as np
import pytest
import torch

from raycrnn import config, image
from raycrnn.alphabet import Alphabet
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model import CRNN
from raycrnn.recognizer import MOST_PIXELS, Recognizer, Transcription, batches_by_width
from raycrnn.samples import Rejected
from tests.conftest import draw, words

TREE = {
    "data": {"csv_files_train": "x.csv"},
    "model": {"cnn_channels": [8, 8, 16, 16, 16, 16, 16], "lstm_size": 12},
    "decoding": {"num_beam_paths": 3, "beam_width": 10},
}
ALPHABET = Alphabet(("a", "b", "c", "ſt", "é"))


def recognizer(**decoding) -> Recognizer:
    torch.manual_seed(3)
    configuration = config.parse({**TREE, "decoding": {**TREE["decoding"], **decoding}})
    network = CRNN.from_settings(configuration.model, configuration.image, len(ALPHABET) + 1)
    network.output.weight.data.mul_(8)  # an untrained network is near-uniform; this one has opinions
    return Recognizer(network, configuration, ALPHABET, {"cer": 0.5})


def arrays(count: int = 12) -> list[np.ndarray]:
    return [image.to_array(draw(text)) for text in words(count)]


def test_what_is_saved_reads_the_same(tmp_path):
    original = recognizer()
    original.save(tmp_path / "model")
    loaded = Recognizer.load(tmp_path / "model", "cpu")
    assert loaded.alphabet == ALPHABET
    assert loaded.metrics == {"cer": 0.5}
    assert loaded.transcribe(arrays()) == original.transcribe(arrays())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    original = recognizer()
    original.network.output.weight.data[0] = float("nan")
    original.save(tmp_path / "model")
    with pytest.raises(RaycrnnError, match="not finite: its training diverged"):
        Recognizer.load(tmp_path / "model", "cpu")


def test_saving_again_replaces_the_whole_directory_and_leaves_no_rest(tmp_path):
    recognizer().save(tmp_path / "model")
    (tmp_path / "model" / "stale").write_text("from the old one")
    other = recognizer()
    other.metrics = {"cer": 0.25}
    other.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "stale").exists()
    assert Recognizer.load(tmp_path / "model", "cpu").metrics == {"cer": 0.25}


def test_a_directory_is_replaced_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    from raycrnn import recognizer as module

    monkeypatch.setattr(module, "_exchange", lambda first, second: False)
    recognizer().save(tmp_path / "model")
    recognizer().save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert Recognizer.load(tmp_path / "model", "cpu").alphabet == ALPHABET


def test_order_and_batch_do_not_matter():
    reader, images = recognizer(), arrays()
    together = reader.transcribe(images)
    assert [t.text for t in reader.transcribe(images[::-1])] == [t.text for t in together[::-1]]
    for array, expected in zip(images, together, strict=True):
        alone = reader.transcribe([array])[0]
        assert alone.text == expected.text
        assert alone.log_prob == pytest.approx(expected.log_prob, abs=1e-3)


def test_alternatives_are_ranked_and_the_score_is_the_gap_of_the_two_best():
    for transcription in recognizer().transcribe(arrays()):
        assert len(transcription.alternatives) == 3
        log_probs = [each.log_prob for each in transcription.alternatives]
        assert log_probs == sorted(log_probs, reverse=True)
        assert transcription.score == pytest.approx(log_probs[0] - log_probs[1])
        assert transcription.text == "".join(ALPHABET.units[code] for code in transcription.codes)


def test_one_path_still_has_a_score_and_greedy_has_none():
    single = recognizer(num_beam_paths=1).transcribe(arrays(3))
    several = recognizer().transcribe(arrays(3))
    assert [t.score for t in single] == [t.score for t in several]
    assert all(len(t.alternatives) == 1 for t in single)
    assert [t.score for t in recognizer(method="greedy", num_beam_paths=1).transcribe(arrays(3))] == [None] * 3


def test_paths_and_bytes_are_read_alike(tmp_path):
    path = tmp_path / "a.png"
    draw("abba").save(path)
    reader = recognizer()
    results = reader([path, str(path), path.read_bytes()])
    assert results[0] == results[1] == results[2]
    with pytest.raises(Rejected, match="not an image"):
        reader([b"text"])


def test_nothing_gives_nothing():
    assert recognizer().transcribe([]) == []


def test_transcriptions_survive_json():
    for transcription in recognizer().transcribe(arrays(4)):
        assert Transcription.from_json(json.loads(json.dumps(transcription.to_json()))) == transcription


def test_decoding_can_be_changed_in_a_trained_model_the_network_cannot(tmp_path):
    recognizer().save(tmp_path / "model")
    changed = Recognizer.load(tmp_path / "model", "cpu", ["decoding.num_beam_paths=2"])
    assert len(changed.transcribe(arrays(1))[0].alternatives) == 2
    with pytest.raises(UsageError, match=r"only decoding\.\*"):
        Recognizer.load(tmp_path / "model", "cpu", ["model.lstm_size=3"])


def test_what_is_no_model_directory_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds no model\.safetensors"):
        Recognizer.load(tmp_path)
    recognizer().save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RaycrnnError, match="damaged"):
        Recognizer.load(tmp_path / "model", "cpu")
    recognizer().save(tmp_path / "model")
    (tmp_path / "model" / "alphabet.json").write_text('{"a": 0}')
    with pytest.raises(RaycrnnError, match="of another model"):
        Recognizer.load(tmp_path / "model", "cpu")


def test_batches_hold_every_image_once_within_the_limit():
    widths = np.random.default_rng(0).integers(8, 3000, 300).tolist()
    batches = batches_by_width(widths, 32)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(widths[index] for index in batch) * 32 <= MOST_PIXELS
