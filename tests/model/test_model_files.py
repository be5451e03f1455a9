"""The models that come with raycrnn are named wherever a path may stand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from raycrnn import Recognizer
from raycrnn.data.alphabet import Alphabet
from raycrnn.evaluate import Evaluate
from raycrnn.metrics.error_rates import score
from raycrnn.model import model_files, model_names
from raycrnn.predict import Predict
from raycrnn.training import network_keys
from tests.model.test_voter import recognizer

TEXTS = ("The river rises in the hills", "Invoice 2026-12-01", "Où est la bibliothèque?", "Größe: 4,50 m")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A CSV of lines in Pillow's own font."""
    for number, text in enumerate(TEXTS):
        font = ImageFont.load_default(size=24)
        image = Image.new("L", (round(font.getlength(text)) + 16, 36), 255)
        ImageDraw.Draw(image).text((8, 2), text, font=font, fill=0)
        image.save(tmp_path / f"{number}.png")
    rows = [f"{number}.png;|{'|'.join(text)}|\n" for number, text in enumerate(TEXTS)]
    (tmp_path / "lines.csv").write_text("".join(rows), encoding="utf-8")
    return tmp_path / "lines.csv"


def test_a_model_of_the_package_reads_lines_by_its_name(lines, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Predict.call(["latin", str(lines), "--format", "jsonl"], "predict") == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert sum(score(text, read).unit_edits for text, read in zip(TEXTS, texts, strict=True)) <= 4
    assert Evaluate.call(["latin", str(lines), "--against", "latin", "--json"], "evaluate") == 0
    assert [each.text for each in Recognizer.load("latin", "cpu")([np.asarray(Image.open("0.png"))])] == texts[:1]


def test_the_models_of_the_package_differ_only_in_their_height():
    """`training.initial_model=auto` judges labels and keys by the first one, and images by the height of each."""
    folders = [Path(model_names.directory_of(name)) for name in model_names.NAMES]
    identities = [model_files.configuration_of(folder, str(folder), ()).identity() for folder in folders]
    assert [identity["image.input_shape"][0] for identity in identities] == [32, 48]
    alphabets = [Alphabet.load(folder / model_files.ALPHABET, "NFC").units for folder in folders]
    assert alphabets[0] == alphabets[1]
    for key in (*network_keys.NETWORK_KEYS, "data.unicode_form", "data.text_direction"):
        assert identities[0][key] == identities[1][key]


@pytest.mark.ray
def test_replicas_on_other_nodes_are_told_the_name(local_ray, lines, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = []
    for arguments in ([], ["--replicas", "1"]):
        assert Predict.call(["latin", str(lines), *arguments], "predict") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_text_is_a_name_and_a_path_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recognizer().save(tmp_path / "latin")
    own, folder = model_files.version_of("latin"), model_files.version_of(str(tmp_path / "latin"))
    assert own != folder
    for location in ("./latin", Path("latin"), Path("./latin"), ["./latin"]):
        assert model_files.version_of(location) == model_files.version_of(model_files.as_location(location)) == folder
        assert model_files.fingerprint(location) != model_files.fingerprint("latin")
    assert model_files.version_of(model_files.as_location("latin")) == own
    assert Recognizer.load(Path("latin"), "cpu").alphabet == recognizer().alphabet
    assert (model_files.absolute("latin"), model_files.absolute("./latin")) == ("latin", str(tmp_path / "latin"))


def test_an_argument_means_the_model_directory_of_that_name_if_there_is_one(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert model_files.leading_models("latin", ["scans"]) == (["latin"], ["scans"]) and not caplog.messages
    # A folder of images is an input.
    (tmp_path / "latin").mkdir()
    assert model_files.leading_models("latin", ["latin"]) == (["latin"], ["latin"]) and not caplog.messages
    recognizer().save(tmp_path / "latin")
    assert model_files.leading_models("latin", ["latin", "scans"]) == (["./latin", "./latin"], ["scans"])
    assert "latin: reading the model directory ./latin, not the model of that name" in caplog.text
    assert model_files.as_argument("latin") == "./latin"


def test_a_name_among_the_inputs_votes_and_a_line_says_so(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    assert model_files.leading_models("output/model", ["latin"]) == (["output/model", "latin"], [])
    assert caplog.messages == ["2 models vote: output/model, latin"]


def test_an_output_beside_images_in_a_folder_of_that_name_is_written(lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin").mkdir()
    (tmp_path / "0.png").rename(tmp_path / "latin" / "0.png")
    assert Predict.call(["latin", "latin", "--format=labels", "-o", "latin/labels.csv"], "predict") == 0
    assert (tmp_path / "latin" / "labels.csv").read_text(encoding="utf-8").startswith("0.png;The river")
