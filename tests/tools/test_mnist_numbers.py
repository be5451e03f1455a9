"""`raycrnn numbers`: the images, CSVs and messages that it writes."""

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycrnn.data.csv_files import read_csv, split_label
from raycrnn.errors import RaycrnnError
from raycrnn.tools.mnist_numbers import write_sets
from raycrnn.tools.numbers import Numbers

MNIST = Path(__file__).parents[2] / "examples" / "mnist"
DIGITS = 50


def call(*arguments: object) -> int:
    return Numbers.call([str(argument) for argument in arguments], "numbers")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """50 images of noise, which differ in the columns that are used, and labels."""
    random = np.random.default_rng(7)
    return random.integers(0, 256, (DIGITS, 28, 28), np.uint8), random.integers(0, 10, DIGITS, np.uint8)


@pytest.fixture
def files(tmp_path, digits) -> tuple[Path, Path]:
    paths = tmp_path / "images.idx", tmp_path / "labels.idx"
    for path, array in zip(paths, digits, strict=True):
        path.write_bytes(idx(array))
    return paths


def numbers_of(folder: Path, name: str, images: np.ndarray) -> list[tuple[list[int], tuple[str, ...]]]:
    """Return for each number of a set the indices of its digit images, and its label."""
    index_of = {image[:, 4:24].tobytes(): index for index, image in enumerate(images)}
    csv = read_csv(folder / f"{name}.csv")
    numbers = []
    for row in csv.rows:
        with Image.open(csv.resolve(row)) as image:
            assert (image.format, image.mode, image.height, image.width % 20) == ("PNG", "L", 28, 0)
            ink = 255 - np.asarray(image)
        strips = [ink[:, left : left + 20].tobytes() for left in range(0, ink.shape[1], 20)]
        numbers.append(([index_of[strip] for strip in strips], split_label(row.label)))
    return numbers


def shown_in(folder: Path, name: str, images: np.ndarray) -> set[int]:
    return {index for shown, _ in numbers_of(folder, name, images) for index in shown}


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_images_show_the_digits_of_their_labels(tmp_path, files, digits):
    images, labels = digits
    assert call(*files, tmp_path / "out", "--count", 200, "--eval-count", 60) == 0
    train, evaluation = (numbers_of(tmp_path / "out", name, images) for name in ("train", "eval"))
    assert (len(train), len(evaluation)) == (200, 60)
    for shown, label in train + evaluation:
        assert label == tuple(str(labels[index]) for index in shown)
    assert {len(label) for _, label in train} == {3, 4, 5, 6, 7, 8}


def test_no_digit_image_is_used_in_both_sets(tmp_path, files, digits):
    assert call(*files, tmp_path / "out", "--count", 200, "--eval-count", 100, "--eval-share", 0.3) == 0
    train, evaluation = (shown_in(tmp_path / "out", name, digits[0]) for name in ("train", "eval"))
    assert not train & evaluation
    assert (len(train), len(evaluation)) == (35, 15)


def test_the_directory_contains_csvs_and_numbered_images(tmp_path, files):
    assert call(*files, tmp_path / "out", "--count", 2, "--eval-count", 1) == 0
    images = {"images/train_000000.png", "images/train_000001.png", "images/eval_000000.png"}
    assert all_files(tmp_path / "out").keys() == {"train.csv", "eval.csv"} | images
    rows = (tmp_path / "out" / "train.csv").read_bytes().split(b"\n")
    assert rows[2:] == [b""]
    for number, row in enumerate(rows[:2]):
        path, label = row.decode().split(";")
        assert path == f"images/train_{number:06}.png"
        assert label[0] == label[-1] == "|" and label.replace("|", "").isdigit()


def test_images_are_black_on_white(tmp_path):
    images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4, dtype=np.uint8)
    images[:, 10, 4] = 255
    images[:, :, :4] = images[:, :, 24:] = 99
    (tmp_path / "i").write_bytes(idx(images)), (tmp_path / "l").write_bytes(idx(labels))
    assert call(tmp_path / "i", tmp_path / "l", tmp_path / "out", "--count", 1, "--eval-count", 1) == 0
    pixels = np.asarray(Image.open(tmp_path / "out" / "images" / "train_000000.png"))
    assert np.argwhere(pixels != 255).tolist() == [[10, left] for left in range(0, pixels.shape[1], 20)]
    assert pixels[10, 0] == 0


def test_least_and_most_limit_the_number_of_digits(tmp_path, files, digits):
    assert call(*files, tmp_path / "out", "--count", 30, "--eval-count", 5, "--least", 1, "--most", 1) == 0
    assert {len(label) for _, label in numbers_of(tmp_path / "out", "train", digits[0])} == {1}


def test_the_same_seed_gives_the_same_files(tmp_path, files):
    options = ("--count", 20, "--eval-count", 5)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert call(*files, tmp_path / name, *options, "--seed", seed) == 0
    a, b, c = (all_files(tmp_path / name) for name in "abc")
    assert a == b
    assert a["train.csv"] != c["train.csv"] and a["eval.csv"] != c["eval.csv"]


def test_the_training_set_does_not_depend_on_the_size_of_the_evaluation_set(tmp_path, files):
    for name, count in (("a", 1), ("b", 9)):
        assert call(*files, tmp_path / name, "--count", 5, "--eval-count", count) == 0
    assert (tmp_path / "a" / "train.csv").read_bytes() == (tmp_path / "b" / "train.csv").read_bytes()


def test_compressed_files_give_the_same_result(tmp_path, files):
    compressed = [path.with_suffix(".any") for path in files]
    for plain, packed in zip(files, compressed, strict=True):
        packed.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    assert call(*files, tmp_path / "a", "--count", 5, "--eval-count", 2) == 0
    assert call(*compressed, tmp_path / "b", "--count", 5, "--eval-count", 2) == 0
    assert all_files(tmp_path / "a") == all_files(tmp_path / "b")


def test_mnist_is_read(tmp_path):
    idx_files = MNIST / "t10k-images-idx3-ubyte.gz", MNIST / "t10k-labels-idx1-ubyte.gz"
    images, labels = (np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8) for path in idx_files)
    images, labels = images[16:].reshape(10_000, 28, 28), labels[8:]
    assert call(*idx_files, tmp_path / "out", "--count", 100, "--eval-count", 20) == 0
    for name, count in (("train", 100), ("eval", 20)):
        numbers = numbers_of(tmp_path / "out", name, images)
        assert len(numbers) == count
        assert all(label == tuple(map(str, labels[shown])) for shown, label in numbers)


def test_the_result_is_printed_as_text_and_json(tmp_path, files, capsys):
    assert call(*files, tmp_path / "out", "--count", 7, "--eval-count", 3, "--json") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    train, evaluation = str(tmp_path / "out" / "train.csv"), str(tmp_path / "out" / "eval.csv")
    assert json.loads(last) == {
        "train": {"file": train, "numbers": 7, "digit_images": 40},
        "eval": {"file": evaluation, "numbers": 3, "digit_images": 10},
    }
    assert len(lines) == 2 and train in lines[0] and evaluation in lines[1]


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_two_digit_images_are_enough(tmp_path, digits, share):
    images, labels = (array[:2] for array in digits)
    (tmp_path / "i").write_bytes(idx(images)), (tmp_path / "l").write_bytes(idx(labels))
    options = ("--count", 3, "--eval-count", 3, "--eval-share", share)
    assert call(tmp_path / "i", tmp_path / "l", tmp_path / "out", *options) == 0
    train, evaluation = (shown_in(tmp_path / "out", name, images) for name in ("train", "eval"))
    assert train | evaluation == {0, 1} and len(train) == len(evaluation) == 1


# -- refusals


def refused(capsys, *arguments: object, code: int) -> str:
    assert call(*arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_directory_that_is_not_empty_is_refused(tmp_path, files, capsys):
    options = ("--count", 1, "--eval-count", 1)
    for used in (tmp_path, files[0]):
        before = all_files(tmp_path)
        assert str(used) in refused(capsys, *files, used, *options, code=2)
        assert all_files(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert call(*files, tmp_path / "empty", *options) == 0


def test_a_directory_that_cannot_be_created_is_reported(tmp_path, files, capsys):
    assert "cannot be written" in refused(capsys, *files, files[0] / "out", code=1)


IMAGES, LABELS = np.zeros((3, 28, 28), np.uint8), np.array([1, 2, 3], np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "culprit", "expected", "code"),
    [
        (None, idx(LABELS), "images", "no such file", 2),
        (idx(IMAGES), None, "labels", "no such file", 2),
        (idx(LABELS), idx(IMAGES), "images", "give the images first, then the labels", 2),
        (idx(IMAGES), idx(IMAGES), "labels", "00 00 08 03, not 00 00 08 01", 2),
        (b"", idx(LABELS), "images", "it is empty", 2),
        (b"\x89PNG\r\n", idx(LABELS), "images", "not an IDX file", 2),
        (idx(IMAGES[:, 1:]), idx(LABELS), "images", "28 × 28", 2),
        (idx(IMAGES)[:-1], idx(LABELS), "images", "2,368 bytes, it has 2,367", 1),
        (idx(IMAGES)[:9], idx(LABELS), "images", "it has 9", 1),
        (idx(IMAGES) + b"\0", idx(LABELS), "images", "it has 2,369", 1),
        (idx(IMAGES), idx(LABELS)[:-2], "labels", "11 bytes, it has 9", 1),
        (idx(IMAGES), idx(LABELS[:2]), "labels", "2 labels, but", 1),
        (idx(IMAGES[:1]), idx(LABELS[:1]), "images", "1 images", 1),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "images", "0 images", 1),
        (idx(IMAGES), idx(LABELS * 9), "labels", "label 27 of image 2", 1),
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], idx(LABELS), "images", "damaged", 1),
        (b"\x1f\x8b nonsense", idx(LABELS), "images", "damaged", 1),
        (gzip.compress(idx(IMAGES), mtime=0)[:10] + b"\xff" * 20, idx(LABELS), "images", "damaged", 1),
    ],
)
def test_errors_of_files_name_the_file(tmp_path, capsys, images, labels, culprit, expected, code):
    for name, content in (("images", images), ("labels", labels)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    message = refused(capsys, tmp_path / "images", tmp_path / "labels", tmp_path / "out", code=code)
    assert message.startswith(f"raycrnn numbers: {tmp_path / culprit}: ") and expected in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--least", "5", "--most", "4"], "--least 5 is greater than --most 4"),
        (["--least", "0"], "least"),
        (["--count", "0"], "count"),
        (["--eval-count", "-1"], "eval-count"),
        (["--eval-share", "1"], "eval-share"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_invalid_options_are_refused(tmp_path, files, capsys, options, expected):
    assert expected in refused(capsys, *files, tmp_path / "out", *options, code=2)
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_if_an_image_cannot_be_written(tmp_path, files, capsys, monkeypatch):
    def full_disk(image, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    assert "No space left" in refused(capsys, *files, tmp_path / "out", code=1)
    assert not (tmp_path / "out").exists()


def test_the_module_can_be_run(tmp_path, files):
    command = [sys.executable, "-m", "raycrnn.tools.numbers", *files, tmp_path / "out", "--json"]
    done = subprocess.run([*command, "--count", "1", "--eval-count", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["train"]["numbers"] == 1


def test_the_command_can_be_repeated_after_a_failed_write(tmp_path, monkeypatch):
    digits, labels = np.zeros((3, 28, 20), np.uint8), np.zeros(3, np.uint8)
    sets = {"train": [np.array([0, 1])]}
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(RaycrnnError, match="No space left"):
            write_sets(tmp_path / "numbers", digits, labels, sets)
    write_sets(tmp_path / "numbers", digits, labels, sets)
    assert len(read_csv(tmp_path / "numbers" / "train.csv").rows) == 1
