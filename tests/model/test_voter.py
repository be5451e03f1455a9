"""Several models that vote, and the directories that hold them."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from raycrnn import Voter, config
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.language import arpa, kneser_ney
from raycrnn.model import ctc, model_files, voter
from raycrnn.model.calibration import Calibration
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer
from tests.conftest import draw, words

TREE = {
    "data": {"csv_files_train": "x.csv"},
    "model": {"cnn_channels": [8, 8, 16, 16, 16, 16, 16], "lstm_size": 12},
    "decoding": {"beam_width": 10},
}
LINES = [draw(text) for text in words(12)]


def recognizer(seed: int = 3, units: str = "abcde", **groups) -> Recognizer:
    torch.manual_seed(seed)
    configuration = config.parse({**TREE, **groups})
    network = CRNN.from_settings(configuration.model, configuration.image, len(units) + 1)
    network.output.weight.data.mul_(8)  # the outputs of an untrained network are nearly uniform
    calibration = Calibration(samples=10 * seed, weights=(0.5, 0.8, 0.0, 0.0))
    return Recognizer(network, configuration, Alphabet(tuple(units)), {"cer": seed / 10, "step": 9}, None, calibration)


def with_language_model() -> Recognizer:
    one = recognizer()
    model = kneser_ney.estimate([tuple("badecab")], 3, one.alphabet.units)
    return Recognizer(one.network, one.configuration, one.alphabet, {}, None, one.calibration, model)


@pytest.mark.parametrize(
    ("make", "lexicon"),
    [(recognizer, None), (with_language_model, None), (recognizer, ["abc", "bad", "cab", "dec"])],
    ids=["plain", "language model", "lexicon"],
)
def test_copies_of_a_model_read_what_it_reads(make, lexicon):
    one = make()
    many = Voter([one] * 3)
    for alone, voted in zip(one(LINES, lexicon=lexicon), many(LINES, lexicon=lexicon), strict=True):
        assert voted.text == alone.text
        assert voted.codes == alone.codes
        assert voted.confidence == pytest.approx(alone.confidence)
        assert voted.log_prob == pytest.approx(math.log(alone.confidence))
        assert [(unit.text, unit.left, unit.right) for unit in voted.units] == [
            (unit.text, unit.left, unit.right) for unit in alone.units
        ]
        assert [unit.confidence for unit in voted.units] == pytest.approx([unit.confidence for unit in alone.units])


def test_the_order_of_the_models_does_not_matter():
    models = [recognizer(seed) for seed in (1, 2, 3)]
    results = [
        [(each.text, round(each.confidence, 5), round(each.score, 3)) for each in Voter(order)(LINES)]
        for order in itertools.permutations(models)
    ]
    assert all(result == results[0] for result in results)


def test_the_confidence_of_a_text_is_the_mean_of_the_calibrated_probabilities():
    models = [recognizer(seed) for seed in (1, 2, 3)]
    readings = [model(LINES, n_best=2, log_probs=True) for model in models]
    for index, voted in enumerate(Voter(models)(LINES, n_best=5)):
        assert sum(each.confidence for each in voted.alternatives) <= 1 + 1e-6
        others = [each.confidence for each in voted.alternatives[1:]]
        assert others == sorted(others, reverse=True)
        shares = []
        for model, own in zip(models, readings, strict=True):
            transcription = own[index]
            log_probs = torch.from_numpy(transcription.log_probs)[:, None]
            frames = torch.tensor([len(log_probs)])
            best, chosen = (
                float(ctc.log_likelihoods(log_probs, frames, [codes])) for codes in (transcription.codes, voted.codes)
            )
            confidence = model.calibration.confidence(best, len(transcription.codes), len(log_probs))
            # An alternative keeps its ratio to the best text, or its share of what that leaves.
            rest = (1 - confidence) * math.exp(chosen) / -math.expm1(best)
            other = min(confidence * math.exp(chosen - best), rest)
            shares.append(confidence if voted.codes == transcription.codes else other)
        assert voted.confidence == pytest.approx(np.mean(shares), rel=1e-3)


def test_models_with_different_alphabets_vote_on_the_texts_of_units():
    first, second = recognizer(1, "abc"), recognizer(2, "cbxa")
    both = Voter([first, second])
    assert both.alphabet.units == ("a", "b", "c", "x")
    for alone, other, voted in zip(first(LINES), second(LINES), both(LINES), strict=True):
        assert set(voted.text) <= set(alone.text) | set(other.text)
        assert both.alphabet.decode(voted.codes) == [unit.text for unit in voted.units]
        assert [unit.code for unit in voted.units] == list(voted.codes)
        if "x" in voted.text:
            # The first model cannot read it.
            assert voted.confidence <= 0.5


def test_models_that_read_other_images_get_their_own():
    small, large = recognizer(1), recognizer(2, image={"input_shape": [48, 512], "input_channels": 3})
    upright = recognizer(3, data={"csv_files_train": "x.csv", "line_orientation": "top_to_bottom"})
    both = Voter([small, large, upright, small])
    assert len(both.inputs) == 3
    prepared = both.prepare(LINES[0])
    assert [each.pixels.shape for each in (prepared, *prepared.others)] == [
        model.prepare(LINES[0]).pixels.shape for model in (small, large, upright)
    ]
    assert len(Voter([small, small]).prepare(LINES[0]).others) == 0
    assert len(both(LINES)) == len(LINES)


def test_the_entries_of_a_lexicon_are_compared_alike_in_place_of_beam_search_and_greedy_decoding():
    entries = ["abc", "bad", "cab", "dec", "dea", "bead", "ace", "ab"]
    beam, greedy = (
        Voter([recognizer(seed, decoding={"method": method, "readings": 1}) for seed in (1, 2, 3)])
        for method in ("beam", "greedy")
    )
    for first, second in zip(beam(LINES, lexicon=entries), greedy(LINES, lexicon=entries), strict=True):
        assert first.text == second.text
        assert first.confidence == pytest.approx(second.confidence, rel=1e-6)


def test_with_a_lexicon_a_vote_is_an_entry():
    entries = ("ab", "abc", "dea", "cab", "bead", "ace")
    models = [recognizer(seed) for seed in (1, 2, 3)]
    for index, voted in enumerate(Voter(models)(LINES, lexicon=entries)):
        read = {model(LINES[index], lexicon=entries)[0].text for model in models}
        assert voted.text in read and read <= set(entries)
        assert "".join(unit.text for unit in voted.units) == voted.text


def test_greedy_models_vote_without_a_beam():
    models = [recognizer(seed, decoding={"method": "greedy"}) for seed in (1, 2)]
    voted = Voter(models)(LINES)
    assert Voter(models).max_alternatives == 1
    assert all(len(each.alternatives) == 1 for each in voted)
    # Without a second reading there is nothing to compare with.
    assert all(
        (each.score is None) == (each.text == a.text == b.text)
        for each, a, b in zip(voted, models[0](LINES), models[1](LINES), strict=True)
    )


def test_more_alternatives_than_a_model_has_are_refused():
    with pytest.raises(UsageError, match="n_best=11"):
        Voter([recognizer(1), recognizer(2)])(LINES, n_best=11)


def test_the_description_of_a_vote_is_that_of_its_models():
    both = Voter([recognizer(1), recognizer(2)])
    assert both.metrics == pytest.approx({"cer": 0.15})
    assert both.calibration.samples == 10


def test_a_directory_of_several_models_is_read_by_name(tmp_path):
    for seed in (1, 2):
        recognizer(seed).save(tmp_path / "all" / f"fold-{seed}")
    (tmp_path / "all" / "models.json").write_text(json.dumps({"models": ["fold-1", "fold-2"]}))
    folders = [str(tmp_path / "all" / name) for name in ("fold-1", "fold-2")]
    assert model_files.members(tmp_path / "all") == tuple(folders)
    assert model_files.members([tmp_path / "all", folders[0]]) == (*folders, folders[0])
    texts = [each.text for each in Voter.load(folders, "cpu")(LINES)]
    assert [each.text for each in Voter.load(tmp_path / "all", "cpu")(LINES)] == texts
    assert isinstance(voter.load(tmp_path / "all", "cpu"), Voter)
    assert isinstance(voter.load(folders[:1], "cpu"), Recognizer)
    assert model_files.version_of(folders) == model_files.version_of(tmp_path / "all")
    assert len(model_files.file_digests(folders)) == 8
    before = model_files.fingerprint(tmp_path / "all")
    recognizer(4).save(tmp_path / "all" / "fold-2")
    assert model_files.fingerprint(tmp_path / "all") not in (before, ())
    with pytest.raises(UsageError, match="holds several models, which vote"):
        Recognizer.load(tmp_path / "all")


@pytest.mark.parametrize("text", ["[]", '{"models": []}', '{"models": [1]}', '{"models": "fold-1"}', "{"])
def test_a_bad_list_of_models_is_refused(tmp_path, text):
    (tmp_path / "models.json").write_text(text)
    with pytest.raises(RaycrnnError, match=r"models\.json"):
        Voter.load(tmp_path)
    assert model_files.fingerprint(tmp_path) == ()


def test_the_model_directories_at_the_start_of_the_arguments_vote(tmp_path):
    for name in ("a", "b"):
        recognizer().save(tmp_path / name)
    a, b, images = (str(tmp_path / name) for name in ("a", "b", "images"))
    assert model_files.leading_models(a, [b, images, b]) == ([a, b], [images, b])
    assert model_files.leading_models(a, [images]) == ([a], [images])


def test_models_in_object_storage_vote(tmp_path, bucket):
    from raycrnn import storage

    for seed in (1, 2):
        recognizer(seed).save(tmp_path / f"fold-{seed}")
        for file in (tmp_path / f"fold-{seed}").iterdir():
            storage.upload(file, storage.join(bucket, "all", f"fold-{seed}", file.name))
    storage.write(storage.join(bucket, "all", "models.json"), b'{"models": ["fold-1", "fold-2"]}')
    place = storage.join(bucket, "all")
    assert model_files.is_model(place) and not model_files.is_model(bucket)
    folders = [tmp_path / "fold-1", tmp_path / "fold-2"]
    assert model_files.file_digests(place) == model_files.file_digests(folders)
    assert model_files.fingerprint(place) == model_files.fingerprint(list(model_files.members(place))) != ()
    texts = [each.text for each in Voter.load(folders, "cpu")(LINES)]
    assert [each.text for each in Voter.load(place, "cpu")(LINES)] == texts


def test_models_share_the_language_model_that_an_override_names(tmp_path):
    for name in ("one", "two"):
        recognizer().save(tmp_path / name)
    file = tmp_path / "model.arpa"
    file.write_bytes(arpa.to_bytes(kneser_ney.estimate([tuple("badecab")], 3, tuple("abcde"))))
    loaded = Voter.load([tmp_path / "one", tmp_path / "two"], "cpu", [f"decoding.language_model={file}"])
    one, two = (each.language_model for each in loaded.recognizers)
    assert one is not None
    assert one is two


def test_the_order_of_models_does_not_matter_if_some_have_a_lexicon(tmp_path):
    recognizer(3).save(tmp_path / "model")
    restricted = Recognizer.load(tmp_path / "model", "cpu", lexicon=["abc", "dbe", "dac", "cab", "bed"])
    models = [restricted, recognizer(4), recognizer(5)]
    forth, back = Voter(models)(LINES), Voter(models[::-1])(LINES)
    assert [each.text for each in forth] == [each.text for each in back]


def test_a_model_with_another_lexicon_is_another_version(tmp_path):
    folder = tmp_path / "model"
    states = []
    for lexicon in (None, ["abc"], ["abc", "dbe"]):
        recognizer().save(folder)
        if lexicon:
            Recognizer.load(folder, "cpu", lexicon=lexicon).save(folder)
        states.append((model_files.version_of(folder), model_files.fingerprint(folder)))
        assert model_files.version_of(folder) == states[-1][0]
    assert len({version for version, _ in states}) == len({state for _, state in states}) == 3
