"""Recognizers, and the model directories that they are saved to."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from raycrnn import config, storage
from raycrnn.data import bidi, orientation
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.image import PreparedImage
from raycrnn.data.lexicon import Lexicon
from raycrnn.data.rejections import Rejected
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model.calibration import FEATURES, Calibration
from raycrnn.model.crnn import CRNN
from raycrnn.model.decoding import _calibrate
from raycrnn.model.recognizer import Recognizer, batches_by_width
from raycrnn.model.transcription import Transcription
from raycrnn.storage import Directory
from tests.conftest import draw, words

TREE = {
    "data": {"csv_files_train": "x.csv"},
    "model": {"cnn_channels": [8, 8, 16, 16, 16, 16, 16], "lstm_size": 12},
    "decoding": {"num_beam_paths": 3, "beam_width": 10, "readings": 1},
}
ALPHABET = Alphabet(("a", "b", "c", "ſt", "é"))


def recognizer(**decoding) -> Recognizer:
    torch.manual_seed(3)
    configuration = config.parse({**TREE, "decoding": {**TREE["decoding"], **decoding}})
    network = CRNN.from_settings(configuration.model, configuration.image, len(ALPHABET) + 1)
    network.output.weight.data.mul_(8)  # the outputs of an untrained network are nearly uniform
    return Recognizer(network, configuration, ALPHABET, {"cer": 0.5})


def lines(count: int = 12) -> list[PreparedImage]:
    return [recognizer().prepare(draw(text)) for text in words(count)]


def test_a_saved_model_transcribes_like_the_original(tmp_path):
    original = recognizer()
    original.save(tmp_path / "model")
    loaded = Recognizer.load(tmp_path / "model", "cpu")
    assert loaded.alphabet == ALPHABET
    assert loaded.metrics == {"cer": 0.5}
    assert loaded.transcribe(lines()) == original.transcribe(lines())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    original = recognizer()
    original.network.output.weight.data[0] = float("nan")
    original.save(tmp_path / "model")
    with pytest.raises(RaycrnnError, match="not finite: the training diverged"):
        Recognizer.load(tmp_path / "model", "cpu")


def test_a_network_that_produces_nan_is_refused():
    overflowing = recognizer()
    overflowing.network.output.weight.data.mul_(1e38)
    overflowing.network.output.bias.data[0] = 3e38
    with pytest.raises(RaycrnnError, match="NaN"):
        overflowing.transcribe(lines(1))


def test_saving_again_replaces_all_files_and_leaves_no_others(tmp_path):
    recognizer().save(tmp_path / "model")
    (tmp_path / "model" / "stale").write_text("from the old one")
    other = recognizer()
    other.metrics = {"cer": 0.25}
    other.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "stale").exists()
    assert Recognizer.load(tmp_path / "model", "cpu").metrics == {"cer": 0.25}


def test_a_model_is_loaded_while_its_directory_is_being_replaced(tmp_path):
    recognizer().save(tmp_path / "model")
    # A process was killed between its two renames.
    (tmp_path / "model").rename(tmp_path / ".model.99.old")
    assert Recognizer.load(tmp_path / "model", "cpu").alphabet == ALPHABET


def test_a_model_that_is_replaced_in_object_storage_while_it_is_read_is_read_again(tmp_path, bucket, monkeypatch):
    location = storage.join(bucket, "model")

    def upload(folder: str) -> None:
        for file in (tmp_path / folder).iterdir():
            storage.upload(file, storage.join(location, file.name))

    recognizer().save(tmp_path / "old")
    other = recognizer()
    other.alphabet = Alphabet(("v", "w", "x", "y", "z"))
    other.save(tmp_path / "new")
    upload("old")
    fetch, fetched = Directory.fetch, []

    def fetch_while_it_is_replaced(directory: Directory, *names: str) -> None:
        # The weights are those of the old model, the alphabet is that of the new one.
        fetch(directory, "model.safetensors")
        if not fetched:
            upload("new")
        fetch(directory, *(name for name in names if fetched or name != "model.safetensors"))
        fetched.append(names)

    monkeypatch.setattr(Directory, "fetch", fetch_while_it_is_replaced)
    assert Recognizer.load(location, "cpu").alphabet.units == other.alphabet.units
    assert len(fetched) == 2


def test_transcriptions_do_not_depend_on_order_and_batch():
    reader, images = recognizer(), lines()
    together = reader.transcribe(images)
    assert [t.text for t in reader.transcribe(images[::-1])] == [t.text for t in together[::-1]]
    for array, expected in zip(images, together, strict=True):
        alone = reader.transcribe([array])[0]
        assert alone.text == expected.text
        assert alone.log_prob == pytest.approx(expected.log_prob, abs=1e-3)


def test_alternatives_are_ranked_and_the_score_is_the_difference_of_the_two_best():
    for transcription in recognizer().transcribe(lines()):
        assert len(transcription.alternatives) == 3
        log_probs = [each.log_prob for each in transcription.alternatives]
        assert log_probs == sorted(log_probs, reverse=True)
        assert transcription.score == pytest.approx(log_probs[0] - log_probs[1])
        assert transcription.text == "".join(ALPHABET.units[code] for code in transcription.codes)


def test_one_path_still_has_a_score_and_greedy_has_none():
    single = recognizer(num_beam_paths=1).transcribe(lines(3))
    several = recognizer().transcribe(lines(3))
    assert [t.score for t in single] == [t.score for t in several]
    assert all(len(t.alternatives) == 1 for t in single)
    assert [t.score for t in recognizer(method="greedy", num_beam_paths=1).transcribe(lines(3))] == [None] * 3


def test_every_kind_of_input_gives_the_same_transcription(tmp_path):
    path = tmp_path / "a.png"
    draw("abba").save(path)
    reader = recognizer()
    drawn = draw("abba")
    results = reader([path, str(path), path.read_bytes(), drawn, np.asarray(drawn), np.stack([drawn] * 3, axis=2)])
    assert [result.name for result in results] == [str(path)] * 2 + [None] * 4
    alone = [reader(path), reader(drawn), reader(np.asarray(drawn)[:, :, None]), reader(path.read_bytes())]
    for result in (*results, *(each[0] for each in alone)):
        assert (result.text, result.codes) == (results[0].text, results[0].codes)
        assert result.log_prob == pytest.approx(results[0].log_prob, abs=1e-4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"text", "a text file"),
        (np.zeros((4, 4)), "float64"),
        (np.zeros((4, 4, 2), np.uint8), r"\[4, 4, 2\]"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (Image.new("L", (4, 0)), "no pixels"),
        (3, "type int: give a path"),
    ],
)
def test_inputs_that_are_not_images_are_refused(given, expected):
    with pytest.raises(Rejected, match="not an image") as error:
        recognizer()([given])
    assert re.search(expected, error.value.detail)


def test_the_given_image_is_not_changed():
    turned = draw("abba").rotate(90, expand=True)
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.info["exif"] = exif.tobytes()
    assert recognizer()(turned)[0].text == recognizer()(draw("abba"))[0].text
    assert turned.size == draw("abba").size[::-1]


def test_spans_are_columns_of_the_original_image():
    """The network is replaced by one whose log-probabilities are known."""
    reader = recognizer(method="greedy", num_beam_paths=1)
    frames = 40
    wide = Image.new("L", (2 * 4 * (frames + 1), 64))

    class Known(torch.nn.Module):
        def forward(self, images_BCHW, widths_B):
            probs_TBK = torch.full((frames, len(images_BCHW), len(ALPHABET) + 1), 1e-4)
            probs_TBK[:, :, -1] = 1
            for frame, code in ((9, 0), (19, 1), (20, 1), (30, 1)):
                probs_TBK[frame, :, -1] = 0.2
                probs_TBK[frame, :, code] = 0.8
            return (probs_TBK / probs_TBK.sum(2, keepdim=True)).log(), widths_B // 4 - 1

    reader.network = Known()
    found = reader(wide)[0]
    assert found.text == "abb"
    # Frame 9 covers columns 36 to 44 of the scaled image; its centre, 40, is column 80 of the original image.
    assert [(unit.left, unit.right) for unit in found.units] == [(40, 120), (120, 208), (208, 288)]
    assert [unit.confidence for unit in found.units] == pytest.approx([0.8] * 3, abs=1e-3)
    assert reader(wide, spans=False)[0].units is None
    assert reader(wide)[0].log_probs is None
    assert reader(wide, log_probs=True)[0].log_probs.shape == (frames, len(ALPHABET) + 1)


@pytest.mark.parametrize(("name", "quarters"), [("top_to_bottom", 1), ("bottom_to_top", -1)])
def test_upright_lines_are_read_like_those_turned_by_hand_and_the_model_keeps_the_setting(tmp_path, name, quarters):
    original = recognizer()
    data = original.configuration.data.model_copy(update={"line_orientation": name})
    configuration = original.configuration.model_copy(update={"data": data})
    Recognizer(original.network, configuration, ALPHABET, {}).save(tmp_path / "model")
    assert name.replace("_", " ") in (tmp_path / "model" / "README.md").read_text()
    reader = Recognizer.load(tmp_path / "model", "cpu")
    drawn = [np.asarray(draw(text, 40)) for text in words(5)]
    found = reader([np.rot90(each, -quarters) for each in drawn])
    for lying_HW, read, expected in zip(drawn, found, original(drawn), strict=True):
        assert read.alternatives == expected.alternatives
        assert len(read.units) == len(expected.units) > 0
        for unit, own in zip(read.units, expected.units, strict=True):
            assert (own.top, own.bottom) == (0, 40)
            upright_HW = np.rot90(lying_HW, -quarters)[unit.top : unit.bottom, unit.left : unit.right]
            assert np.array_equal(np.rot90(upright_HW, quarters), lying_HW[:, own.left : own.right])


def test_a_model_without_the_setting_reads_horizontal_lines(tmp_path):
    recognizer().save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    tree = json.loads(path.read_text())
    assert tree["data"].pop("line_orientation") == "horizontal"
    path.write_text(json.dumps(tree))
    assert Recognizer.load(tmp_path / "model", "cpu")(draw("abba")) == recognizer()(draw("abba"))


def test_a_single_unit_is_as_wide_as_the_line_is_high_and_ends_with_the_image():
    assert orientation.spans([(9, 10)], (32, 200, 1), 200) == [(24, 56)]
    assert orientation.spans([(0, 1)], (32, 16, 1), 32) == [(0, 32)]
    assert orientation.spans([], (32, 200, 1), 200) == []


def test_n_best_sets_the_number_of_alternatives_up_to_the_beam_width():
    reader = recognizer(num_beam_paths=1)
    one, four = reader(draw("abba")), reader(draw("abba"), n_best=4)
    assert len(one[0].alternatives) == 1
    assert len(four[0].alternatives) == 4
    assert (one[0].text, one[0].score, one[0].units) == (four[0].text, four[0].score, four[0].units)
    with pytest.raises(UsageError, match="beam decoding returns 1 to 10 alternatives"):
        reader(draw("abba"), n_best=11)
    with pytest.raises(UsageError, match="greedy decoding returns 1 to 1 alternatives"):
        recognizer(method="greedy", num_beam_paths=1)(draw("a"), n_best=2)


def test_the_temperature_changes_only_confidences_and_is_saved_with_the_model(tmp_path):
    sure, unsure = recognizer(), recognizer()
    unsure.calibration = Calibration(3.0, 100)
    unsure.save(tmp_path / "model")
    unsure = Recognizer.load(tmp_path / "model", "cpu")
    for one, other in zip(sure.transcribe(lines()), unsure.transcribe(lines()), strict=True):
        assert (one.text, one.score, one.log_prob) == (other.text, other.score, other.log_prob)
        # log_prob is over the alignments that the beam search kept, the confidence over all.
        assert max(other.confidence, math.exp(one.log_prob)) < one.confidence
    (tmp_path / "model" / "calibration.json").write_text('{"temperature": -1, "samples": 3}')
    with pytest.raises(RaycrnnError, match="not a calibration"):
        Recognizer.load(tmp_path / "model", "cpu")


def test_right_to_left_text_is_transcribed_in_logical_order(tmp_path):
    """The same network with letters of Hebrew, whose codes are in the order of the image."""
    original = recognizer()
    hebrew = ("א", "ב", "1", "2", " ")
    visual = Recognizer(original.network, original.configuration, Alphabet(hebrew), {})
    Recognizer(original.network, original.configuration, Alphabet(hebrew, "rtl"), {}).save(tmp_path / "model")
    logical = Recognizer.load(tmp_path / "model", "cpu")
    assert logical.configuration.data.text_direction == "rtl"
    images = lines()
    for shown, read in zip(visual.transcribe(images), logical.transcribe(images), strict=True):
        for one, other in zip(shown.alternatives, read.alternatives, strict=True):
            assert bidi.display_order(tuple(other.text), "rtl") == tuple(one.text)
            assert "".join(logical.alphabet.decode(other.codes)) == other.text
        assert [unit.text for unit in read.units] == list(read.text)
        assert sorted(read.units, key=lambda unit: unit.left) == sorted(shown.units, key=lambda unit: unit.left)
    assert [each.text for each in logical.transcribe(images)] != [each.text for each in visual.transcribe(images)]


@given(
    log_probs=st.lists(st.floats(-30, 0), min_size=1, max_size=6),
    weights=st.tuples(*[st.floats(-3, 3)] * len(FEATURES)),
)
def test_the_confidences_of_an_images_texts_add_up_to_at_most_1_and_keep_their_order(log_probs, weights):
    total = math.log(max(1.0, sum(map(math.exp, log_probs))))
    ranked = sorted((each - total for each in log_probs), reverse=True)
    best = Calibration(1.0, 100, weights).confidence(ranked[0], 7, 60)
    confidences = _calibrate(ranked, best)
    assert confidences[0] == best
    assert sum(confidences) <= 1 + 1e-9
    assert all(0 <= after <= before * (1 + 1e-9) for before, after in itertools.pairwise(confidences[1:]))


def test_without_a_fit_confidences_are_ctc_probabilities():
    ranked = [math.log(0.6), math.log(0.3), math.log(0.05)]
    best = Calibration().confidence(ranked[0], 7, 60)
    assert _calibrate(ranked, best) == pytest.approx([0.6, 0.3, 0.05])
    assert _calibrate([0.0, -50.0], 1.0) == [1.0, 0.0]


def test_fitted_weights_change_only_confidences_and_are_saved_with_the_model(tmp_path):
    before, after = recognizer(), recognizer()
    after.calibration = Calibration(1.0, 100, (-1.0, 0.5, -0.25, 0.125))
    after.save(tmp_path / "model")
    after = Recognizer.load(tmp_path / "model", "cpu")
    assert after.calibration == Calibration(1.0, 100, (-1.0, 0.5, -0.25, 0.125))
    for one, other in zip(before.transcribe(lines()), after.transcribe(lines()), strict=True):
        assert (one.text, one.score, one.log_prob, one.units) == (other.text, other.score, other.log_prob, other.units)
        assert one.confidence != other.confidence


def test_no_images_give_no_transcriptions():
    assert recognizer().transcribe([]) == []


def test_transcriptions_can_be_converted_to_json_and_back():
    for transcription in recognizer().transcribe(lines(4)):
        again = Transcription.from_json(json.loads(json.dumps(transcription.to_json())))
        assert again.codes == transcription.codes
        assert again.log_prob == pytest.approx(transcription.log_prob, abs=1e-4)
        assert again.to_json() == transcription.to_json()


def test_overrides_change_decoding_but_not_the_network(tmp_path):
    recognizer().save(tmp_path / "model")
    changed = Recognizer.load(tmp_path / "model", "cpu", ["decoding.num_beam_paths=2"])
    assert len(changed.transcribe(lines(1))[0].alternatives) == 2
    with pytest.raises(UsageError, match=r"only decoding\.\*"):
        Recognizer.load(tmp_path / "model", "cpu", ["model.lstm_size=3"])


def test_invalid_model_directories_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"contains no model\.safetensors"):
        Recognizer.load(tmp_path)
    recognizer().save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RaycrnnError, match="damaged"):
        Recognizer.load(tmp_path / "model", "cpu")
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n")
    with pytest.raises(RaycrnnError, match="a pointer of Git LFS, without the file itself: run `git lfs pull`"):
        Recognizer.load(tmp_path / "model", "cpu")
    recognizer().save(tmp_path / "model")
    (tmp_path / "model" / "alphabet.json").write_text('{"a": 0}')
    with pytest.raises(RaycrnnError, match="from another model"):
        Recognizer.load(tmp_path / "model", "cpu")


def test_the_model_card_describes_input_usage_and_scores(tmp_path):
    reader = recognizer()
    reader.metrics = {"cer": 0.0123, "wer": 0.1, "accuracy": 0.9, "loss": 1.5, "epoch": 3.0, "step": 120}
    reader.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "height of 32 pixels" in card
    assert "| Character error rate (CER) | 1.23% |" in card
    assert "epoch 3.0, step 120" in card
    reader.metrics = {"epoch": 3.0, "step": 120}
    reader.save(tmp_path / "model")
    assert "without an evaluation set" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_batches_contain_every_image_once_within_the_limit():
    widths = np.random.default_rng(0).integers(8, 3000, 300).tolist()
    batches = batches_by_width(widths, 32, 2**17)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(widths[index] for index in batch) * 32 <= 2**17


def test_texts_are_entries_of_the_lexicon_with_their_probabilities():
    reader, entries = recognizer(), ["abc", "cab", "|ſt|é|", "bb"]
    for image, transcription in zip(lines(), reader.transcribe(lines(), lexicon=entries), strict=True):
        texts = [each.text for each in transcription.alternatives]
        assert len(texts) == 3
        assert set(texts) <= {"abc", "cab", "ſté", "bb"}
        assert transcription.score == transcription.log_prob - transcription.alternatives[1].log_prob
        assert sum(each.confidence for each in transcription.alternatives) <= 1 + 1e-6
        # Without calibration, the confidence is the probability among the entries.
        fourth = reader.transcribe([image], n_best=4, lexicon=entries)[0].alternatives
        probabilities = [math.exp(each.log_prob) for each in fourth]
        assert [each.confidence for each in fourth] == pytest.approx(
            [each / sum(probabilities) for each in probabilities], rel=1e-2
        )


def test_confidences_with_a_lexicon_do_not_depend_on_the_number_of_alternatives():
    reader = recognizer(beam_width=20)
    entries = ["".join(units) for units in itertools.product("abc", repeat=3)]
    for few, many in zip(*(reader.transcribe(lines(), n_best, lexicon=entries) for n_best in (2, 20)), strict=True):
        assert len(many.alternatives) == 20
        assert few.alternatives == many.alternatives[:2]


def test_a_saved_model_keeps_its_lexicon(tmp_path):
    original = recognizer()
    original = Recognizer(
        original.network,
        original.configuration,
        ALPHABET,
        {},
        lexicon=Lexicon.of(["abc", "|ſt|é|", "cb", "xyz"], original.configuration.data),
    )
    original.save(tmp_path / "model")
    assert (tmp_path / "model" / "lexicon.txt").read_text(encoding="utf-8") == "abc\n|ſt|é|\ncb\n"
    loaded = Recognizer.load(tmp_path / "model", "cpu")
    assert loaded.lexicon == original.lexicon
    assert loaded.transcribe(lines()) == original.transcribe(lines())
    assert "one of the 3 entries of `lexicon.txt`" in (tmp_path / "model" / "README.md").read_text()
    # The directory does not need the file that its configuration names.
    assert Recognizer.load(tmp_path / "model", "cpu", ["decoding.lexicon=null"]).lexicon is None
    (tmp_path / "words.txt").write_text("bb\n")
    other = Recognizer.load(tmp_path / "model", "cpu", [f"decoding.lexicon={tmp_path / 'words.txt'}"])
    assert {each.text for each in other.transcribe(lines())} == {"bb"}
    assert {each.text for each in Recognizer.load(tmp_path / "model", "cpu", lexicon=["ca"]).transcribe(lines())} == {
        "ca"
    }
    (tmp_path / "model" / "lexicon.txt").unlink()
    with pytest.raises(UsageError, match="has no lexicon: name one"):
        Recognizer.load(tmp_path / "model", "cpu")


def test_the_words_of_texts_are_entries(tmp_path):
    reader = recognizer(lexicon_mode="words")
    for transcription in reader.transcribe(lines(), lexicon=["ab", "c"]):
        # This alphabet has no units between words.
        assert {each.text for each in transcription.alternatives} <= {"", "ab", "c"}


def test_a_lexicon_of_a_call_does_not_change_the_next_call():
    reader = recognizer()
    before = reader.transcribe(lines(3))
    assert {each.text for each in reader.transcribe(lines(3), lexicon=["ab"])} == {"ab"}
    assert {each.text for each in reader.transcribe(lines(3), lexicon=["bc"])} == {"bc"}
    assert reader.transcribe(lines(3)) == before
    with pytest.raises(UsageError, match="can read none of the entries"):
        reader.transcribe(lines(1), lexicon=["xyz"])


@pytest.mark.parametrize(
    "decoding",
    [
        {"lexicon_mode": "words", "method": "greedy", "num_beam_paths": 1},
        {"lexicon_mode": "words", "lexicon_distance": 2},
        {"lexicon": "words.txt", "language_model": "labels"},
    ],
)
def test_settings_that_exclude_each_other_are_refused(decoding):
    with pytest.raises(UsageError, match="decoding: "):
        recognizer(**decoding)
