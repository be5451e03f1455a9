"""Starting from a model: its weights by unit, the keys and units that a run takes from it, and what is refused."""

import hashlib
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

from raycrnn import cluster, config
from raycrnn.config import Configuration
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.labelled_csvs import LabelledCsvs
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.model import model_names
from raycrnn.model.crnn import CRNN, weights_for_height
from raycrnn.model.recognizer import Recognizer
from raycrnn.storage import Directory
from raycrnn.train import Train
from raycrnn.training import initial_model, resume
from raycrnn.training.initial_model import InitialModel
from raycrnn.training.worker import make_network
from tests.conftest import words
from tests.training.test_learner import SMALL, make_batch

NETWORK = {"cnn_channels": list(SMALL), "lstm_size": 32}
UNITS = ("a", "c", "é", "ſt")


def save(folder: Path, units: tuple[str, ...] = UNITS, direction: str = "ltr", **groups: dict) -> Path:
    """Write a model directory with random weights."""
    tree = {"data": {"csv_files_train": "old.csv"}, "model": NETWORK, "image": {"input_shape": [48, 300]}, **groups}
    configuration = config.parse(tree)
    torch.manual_seed(7)
    network = CRNN.from_settings(configuration.model, configuration.image, len(units) + 1)
    torch.nn.init.normal_(network.output.bias)
    Recognizer(network, configuration, Alphabet(units, direction), {"cer": 0.5}).save(folder)
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    return save(tmp_path / "model")


def settings(model: Path, /, **groups: dict) -> Configuration:
    """Return the configuration of a run that starts from a model."""
    training = {"initial_model": str(model), **groups.pop("training", {})}
    data = {"csv_files_train": "new.csv", **groups.pop("data", {})}
    return config.parse({"data": data, "training": training, **groups})


def start(model: Path, units: tuple[str, ...], height: int = 48) -> CRNN:
    """Return the network of a new run with an alphabet."""
    configuration, initial = initial_model.prepare(settings(model, image={"input_shape": [height, 300]}))
    return make_network(
        SimpleNamespace(
            configuration=configuration, data=SimpleNamespace(alphabet=Alphabet(units)), initial_model=initial
        )
    )


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read a file of float32 and int64 tensors by the description of its format."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + length :][first:end], {"F32": "<f4", "I64": "<i8"}[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def test_weights_are_those_of_the_model_and_classes_move_with_their_units(model):
    stored = read_safetensors(model / "model.safetensors")
    units = ("é", "new", "a", "c", "zz")
    network = start(model, units)
    torch.manual_seed(0)
    fresh = CRNN(6, height=48, cnn_channels=SMALL, lstm_size=32)
    state = network.state_dict()
    assert state.keys() == stored.keys()
    for name, values in stored.items():
        if name.startswith("output."):
            # Codes of the model: a 0, c 1, é 2, ſt 3, blank 4.
            for row, old in ((0, 2), (2, 0), (3, 1), (5, 4)):
                assert np.array_equal(state[name][row], values[old]), (name, row)
            for row in (1, 4):
                assert torch.equal(state[name][row], fresh.state_dict()[name][row])
        else:
            assert np.array_equal(state[name], values), name


def log_probs(network: CRNN) -> torch.Tensor:
    batch = make_batch(words(3))
    images = torch.nn.functional.pad(batch.images_BCHW, (0, 0, 8, 8))
    with torch.no_grad():
        return network.eval()(images, batch.widths_B)[0]


def test_weights_in_half_precision_are_loaded_as_they_are(model):
    file = model / "model.safetensors"
    halves = {
        name: values.half() if values.is_floating_point() else values
        for name, values in safetensors.torch.load_file(file).items()
    }
    safetensors.torch.save_file(halves, file)
    network = start(model, ("é", "a", "ß"))
    assert network.lstms[0].forwards.weight_ih_l0.dtype == torch.float32
    assert torch.equal(network.lstms[0].forwards.weight_ih_l0, halves["lstms.0.forwards.weight_ih_l0"].float())
    assert torch.equal(network.output.bias[[0, 1, 3]], halves["output.bias"][[2, 0, 4]].float())


@pytest.mark.parametrize("height", [32, 64, 80])
def test_another_height_gets_weights_that_agree_where_rows_of_features_do(model, height):
    """Features that are the same in all rows make the first LSTM compute what that of the model does."""
    of_model = Recognizer.load(model, "cpu").network.lstms[0]
    network = start(model, UNITS, height=height)
    channels, rows = SMALL[-1], {32: 1, 48: 2, 64: 3, 80: 4}
    features_BTC = torch.randn(2, 7, channels)
    lengths_B = torch.tensor([7, 5])
    with torch.no_grad():
        found, expected = (
            lstm(features_BTC.repeat_interleave(rows[each], dim=2), lengths_B)
            for lstm, each in ((network.lstms[0], height), (of_model, 48))
        )
    assert torch.allclose(found, expected, atol=1e-5)
    if height == 80:
        new_UCR = network.lstms[0].forwards.weight_ih_l0.unflatten(1, (channels, 4))
        old_UCR = of_model.forwards.weight_ih_l0.unflatten(1, (channels, 2))
        assert torch.allclose(new_UCR, old_UCR.repeat_interleave(2, dim=2) / 2, atol=1e-6)


@pytest.mark.parametrize("height", [32, 64, 96])
def test_at_the_same_height_the_weights_stay_as_they_are(height):
    weights = CRNN(5, height=height, cnn_channels=SMALL, lstm_size=32).state_dict()
    adapted = weights_for_height(weights, height)
    assert all(adapted[name].equal(values) for name, values in weights.items())


def test_a_run_of_another_height_keeps_it_and_says_so(model, caplog):
    caplog.set_level(logging.INFO)
    own = settings(model, image={"input_shape": [64, 300]})
    configuration, _ = initial_model.prepare(own)
    assert configuration.image.input_shape == (64, 300)
    assert f"{model} was trained at a height of 48 pixels: its weights are adapted to 64" in caplog.text
    assert resume.complete(own, {"identity": configuration.identity(), "initial_model": str(model)}) == configuration


def test_before_its_first_step_a_network_computes_what_the_model_does(model):
    expected = log_probs(Recognizer.load(model, "cpu").network)
    assert torch.equal(log_probs(start(model, UNITS)), expected)
    more = log_probs(start(model, ("b", *UNITS)))
    # The class of b takes a share of the probability; that of the others is divided as before.
    assert more.shape[2] == expected.shape[2] + 1
    others = more[:, :, 1:].log_softmax(2)
    assert torch.allclose(others, expected, atol=1e-5)


def test_keys_of_the_network_that_are_not_set_are_those_of_the_model_and_a_line_says_so(model, caplog):
    with caplog.at_level(logging.INFO):
        configuration, initial = initial_model.prepare(settings(model))
    assert configuration.model.channels == SMALL and configuration.model.lstm_units == 32
    assert configuration.image.input_shape == (48, 300)
    assert f"taken from {model}: model.cnn_channels=[8, " in caplog.text
    assert "image.input_shape=[48, 300]" in caplog.text and "lstm_layers" not in caplog.text
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert initial.sha256 == configuration.training.initial_model_sha256 == digest
    # A complete configuration is that of the same run.
    again = config.parse(configuration.model_dump(mode="json"))
    assert initial_model.prepare(again)[0] == configuration


def test_a_known_size_is_taken_by_its_name(tmp_path):
    model = save(tmp_path / "quarter", model={"size": "quarter"})
    configuration, _ = initial_model.prepare(settings(model))
    assert configuration.model.size == "quarter" and configuration.model.cnn_channels is None
    assert initial_model.prepare(settings(model, model={"size": "quarter"}))[0].model.channels[0] == 16


def test_without_an_initial_model_nothing_changes():
    configuration = config.parse({"data": {"csv_files_train": "x.csv"}, "training": {"initial_model": None}})
    assert initial_model.prepare(configuration) == (configuration, None)


def test_the_width_and_dropout_are_free(model):
    own = {"image": {"input_shape": [48, 700]}, "model": {"keep_prob": 0.5}}
    configuration, _ = initial_model.prepare(settings(model, **own))
    assert configuration.image.input_shape == (48, 700) and configuration.model.keep_prob == 0.5


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"model": {"size": "half"}}, r"model.size \(model.cnn_channels\) is \[32, .*\], that of the model is \[8, "),
        ({"model": {"lstm_size": 64}}, r"model.lstm_size is 64, that of the model is 32\n"),
        ({"model": {"lstm_layers": 1}}, r"model.lstm_layers is 1, that of the model is 2\n"),
        ({"image": {"input_channels": 3}}, r"image.input_channels is 3, that of the model is 1\n"),
    ],
)
def test_another_network_is_refused_with_the_keys_that_need_it(model, groups, message):
    with pytest.raises(UsageError, match=message + "(.|\n)*remove these keys"):
        initial_model.prepare(settings(model, **groups))


def units_of(configuration: Configuration, lookup: tuple[str, ...] | None) -> LabelledCsvs:
    """Return the units of a run with the labels of `new.csv`."""
    csvs = LabelledCsvs([], [], Alphabet(lookup) if lookup else None, "ltr", {}, {})
    initial_model.read(configuration).add_units(csvs, configuration)
    return csvs


@pytest.mark.parametrize(
    ("which", "lookup", "alphabet", "more"),
    [
        ("union", None, None, UNITS),
        ("union", ("b", "é"), ("b", "é", "a", "c", "ſt"), ()),
        ("new", None, None, ()),
        ("new", ("b", "é"), ("b", "é"), ()),
        ("same", None, UNITS, ()),
    ],
)
def test_the_alphabet_is_the_union_or_that_of_the_run_or_that_of_the_model(model, which, lookup, alphabet, more):
    csvs = units_of(settings(model, training={"initial_alphabet": which}), lookup)
    assert (csvs.alphabet.units if csvs.alphabet else None, csvs.more_units) == (alphabet, more)


def test_the_alphabet_of_the_model_and_a_lookup_file_exclude_each_other(model):
    with pytest.raises(UsageError, match=r"remove data\.lookup_alphabet_file"):
        units_of(settings(model, training={"initial_alphabet": "same"}), ("a",))


def test_a_line_counts_the_units_that_are_kept_new_and_dropped(model):
    initial = initial_model.read(settings(model))
    assert initial.describe(Alphabet(("a", "é", "n"))) == (
        f"starts from {model}: 2 units kept, 1 new ('n'), 2 dropped ('c', 'ſt')"
    )
    many = initial.describe(Alphabet((*UNITS, *map(str, range(30)))))
    assert "4 units kept, 30 new ('0', " in many and many.endswith("'19', …), 0 dropped")


def test_units_are_compared_in_the_normalisation_form_of_the_labels(tmp_path, model):
    def units(model: Path, **data: str) -> tuple[str, ...]:
        return initial_model.read(settings(model, data=data)).alphabet.units

    assert units(model, unicode_form="NFD") == ("a", "c", "e\u0301", "ſt")
    with pytest.raises(UsageError, match=r"'s' twice.*set data.unicode_form=NFC, as in this model"):
        units(save(tmp_path / "long s", ("s", "ſ")), unicode_form="NFKC")
    decomposed = save(tmp_path / "nfd", ("e\u0301",), data={"csv_files_train": "x", "unicode_form": "NFD"})
    assert units(decomposed) == ("e\u0301",)
    assert initial_model.prepare(settings(decomposed))[0].data.unicode_form == "NFD"


def test_another_orientation_or_direction_is_a_warning(tmp_path, caplog):
    model = save(tmp_path / "rtl", direction="rtl", data={"csv_files_train": "x", "line_orientation": "top_to_bottom"})
    configuration, _ = initial_model.prepare(settings(model))
    units_of(configuration, None)
    assert "data.line_orientation is horizontal, that of" in caplog.text and "is top_to_bottom" in caplog.text
    assert "the text direction ltr" in caplog.text and "had rtl" in caplog.text


@pytest.mark.parametrize("name", model_names.NAMES)
def test_a_model_of_the_package_is_named(name, tmp_path, monkeypatch):
    # A folder of that name would be ./latin.
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    configuration, model = initial_model.prepare(settings(name))
    assert (model.location, configuration.training.initial_model) == (name, name)
    assert configuration.model.size == "half"
    assert configuration.image.input_shape[0] == {"latin": 32, "latin48": 48}[name]
    assert configuration.data.unicode_form == "NFC"
    assert {*"abcxyzABCXYZ0123456789.,;:!?()", "é", "ü", "ß", "ſ", "ø", "€"} <= set(model.alphabet.units)
    network = start(Path(name), ("a", "ſ", "☃"))
    assert all(values.isfinite().all() for values in network.state_dict().values())
    assert sum(file.stat().st_size for file in Path(model_names.directory_of(name)).iterdir()) < 6e6


def test_what_is_no_model_is_refused(tmp_path, model):
    with pytest.raises(UsageError, match=r"contains no model\.safetensors; did you mean \S+/model\?"):
        initial_model.read(settings(tmp_path))
    with pytest.raises(UsageError, match=r"nowhere: not a model directory: it contains no model\.safetensors$"):
        initial_model.read(settings(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"its weights is \w{64}, but .*_sha256 is abc: .* remove the key"):
        initial_model.read(settings(model, training={"initial_model_sha256": "abc"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-10], "model.safetensors: damaged"),
        (lambda data: data[:-8] + np.float32([math.nan, 1]).tobytes(), "some weights are not finite"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n", "a pointer of Git LFS"),
    ],
)
def test_damaged_weights_are_refused_before_they_reach_the_workers(model, damage, message):
    weights = model / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(RaycrnnError, match=message):
        initial_model.read(settings(model)).put()


@pytest.mark.parametrize("name", ["initial_alphabet=new", "initial_layers_rate=0.5", "frozen_convolutions=2"])
def test_the_other_keys_need_an_initial_model(name):
    with pytest.raises(UsageError, match="set initial_model too"):
        config.parse({"data": {"csv_files_train": "x.csv"}}, [f"training.{name}"])


def test_a_command_with_another_network_ends_with_one_message_before_ray_starts(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "connect", lambda *_, **__: pytest.fail("Ray was started"))
    (tmp_path / "config.json").write_text(json.dumps({"data": {"csv_files_train": "new.csv"}}))
    own = [f"training.initial_model={model}", "model.size=half", f"output_model_dir={tmp_path}/output"]
    with pytest.raises(SystemExit) as ended:
        Train.main([str(tmp_path / "config.json"), *own])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("model.size (") == 2 and message.strip().endswith("or remove training.initial_model")
    assert "Traceback" not in message


# Resuming


def state_of(configuration: Configuration) -> dict:
    """Return the part of a checkpoint's state that concerns the initial model."""
    return {"identity": configuration.identity(), "initial_model": configuration.training.initial_model}


def test_a_resumed_run_needs_the_model_only_if_its_place_has_changed(tmp_path, model):
    configuration, _ = initial_model.prepare(settings(model))
    state = state_of(configuration)
    moved = model.rename(tmp_path / "moved")
    for place in (model, moved):
        resumed = resume.complete(settings(place), state)
        assert resumed.identity() == configuration.identity()
    with pytest.raises(UsageError, match=r"initial_model_sha256: \w{64} then, abc now"):
        stated = resume.complete(settings(model, training={"initial_model_sha256": "abc"}), state)
        resume.check_same_settings(state["identity"], stated.identity())
    other = save(tmp_path / "other", ("x",))
    with pytest.raises(UsageError, match=r"SHA-256 of training.initial_model: \w+ then, \w+ now"):
        resume.complete(settings(other), state)
    with pytest.raises(UsageError, match="nowhere: not a model directory"):
        resume.complete(settings(tmp_path / "nowhere"), state)


def test_a_run_does_not_get_or_lose_an_initial_model_when_it_is_resumed(model):
    without = config.parse({"data": {"csv_files_train": "new.csv"}, "training": {"initial_model": None}})
    old = {"identity": without.identity()}
    assert resume.complete(without, old) == without
    with pytest.raises(UsageError, match=r"training.initial_model: None then, \S+ now"):
        resume.complete(settings(model), old)
    with pytest.raises(UsageError, match=r"training.initial_model: \S+ then, None now"):
        resume.complete(without, state_of(initial_model.prepare(settings(model))[0]))


def test_a_run_without_the_key_resumes_with_what_was_chosen_at_its_start(model):
    not_set = config.parse({"data": {"csv_files_train": "new.csv"}})
    without = config.parse({"data": {"csv_files_train": "new.csv"}, "training": {"initial_model": None}})
    assert resume.complete(not_set, {"identity": without.identity()}) == without
    configuration, _ = initial_model.prepare(settings(model))
    resumed = resume.complete(not_set, state_of(configuration))
    assert resumed.training.initial_model == str(model)
    assert resumed.identity() == configuration.identity()


@pytest.mark.parametrize(
    ("alphabet", "refused"), [("ab", False), ("abé", False), ("ba", True), ("b", True), ("abx", True)]
)
def test_the_units_of_a_lookup_file_are_the_first_ones_of_a_union(model, alphabet, refused):
    configuration, _ = initial_model.prepare(settings(model))
    digests = {"csv_files": {}, "csv_digests": {}, "alphabet": ["a", "b", "é", "ſt"]}
    csvs = LabelledCsvs([], [], Alphabet(tuple(alphabet)), "ltr", {}, {})
    state = {**state_of(configuration), **digests}
    if refused:
        with pytest.raises(UsageError, match="the alphabet is not that of the checkpoint"):
            resume.check_same_data(state, csvs, {}, Directory("output"))
    else:
        resume.check_same_data(state, csvs, {}, Directory("output"))


def test_the_model_card_names_the_initial_model(tmp_path, model):
    configuration, initial = initial_model.prepare(settings(model))
    network = start(model, UNITS)
    Recognizer(network, configuration, Alphabet(UNITS), {}).save(tmp_path / "tuned")
    card = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    assert f"started from the weights of `{model}` (SHA-256 of `model.safetensors`: `{initial.sha256}`)" in card
    assert isinstance(initial, InitialModel) and "started from" not in (model / "README.md").read_text(encoding="utf-8")
