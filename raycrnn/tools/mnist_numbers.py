"""Compose images of numbers from MNIST's digits, with the CSVs that list them."""

import gzip
import math
import shutil
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from raycrnn import storage
from raycrnn.errors import RaycrnnError, UsageError

SIDE = 28
"""Width and height of a digit image in pixels."""

COLUMNS = slice(4, 24)
"""Columns of a digit image that are used; the others are mostly background and would space the digits widely."""


def read_digits(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read MNIST's digits.

    Returns:
        The images without their outer columns, uint8 [N, 28, 20], white on black, and the labels, uint8 [N].

    Raises:
        UsageError: A file does not exist or is of another kind.
        RaycrnnError: A file is damaged, or the two files do not belong together.
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise UsageError(
            f"{images_path}: images of {images.shape[2]} × {images.shape[1]} pixels; MNIST's are {SIDE} × {SIDE}"
        )
    if len(images) != len(labels):
        raise RaycrnnError(f"{labels_path}: {len(labels)} labels, but {images_path} has {len(images)} images")
    if len(images) < 2:
        raise RaycrnnError(f"{images_path}: {len(images)} images; at least two are needed")
    if labels.max() > 9:
        raise RaycrnnError(f"{labels_path}: label {labels.max()} of image {labels.argmax()} is not a digit")
    return images[:, :, COLUMNS], labels


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read the uint8 array of an IDX file (http://yann.lecun.com/exdb/mnist/).

    The file consists of the bytes 0, 0, 8 and the number of dimensions, the sizes as big-endian uint32, and the values.

    Raises:
        UsageError: The file does not exist or is of another kind.
        RaycrnnError: The length of the file differs from what its header says.
    """
    data = _read(path)
    magic, header = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if data[:4] != magic:
        kind = {1: "labels", 3: "images"}[dimensions]
        start = f"it starts with {data[:4].hex(' ')}, not {magic.hex(' ')}" if data else "it is empty"
        raise UsageError(f"{path}: not an IDX file of {kind}: {start}; give the images first, then the labels")
    # Sizes missing from a truncated header are read as 0; the length is then wrong, too.
    shape = struct.unpack_from(f">{dimensions}I", data.ljust(header, b"\0"), 4)
    if len(data) != header + math.prod(shape):
        lengths = f"its header requires {header + math.prod(shape):,} bytes, it has {len(data):,}"
        raise RaycrnnError(f"{path}: damaged: {lengths}; copy or download it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error) as error:
        raise RaycrnnError(f"{path}: damaged: {error}; copy or download it again") from None


def split_digits(count: int, eval_share: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide the indices of digit images into training and evaluation.

    Returns:
        Indices for training, int64 [count − n], and for evaluation, int64 [n]; neither is empty.
    """
    order = random.permutation(count)
    eval_count = min(max(round(count * eval_share), 1), count - 1)
    return order[eval_count:], order[:eval_count]


def draw_numbers(pool: np.ndarray, count: int, least: int, most: int, random: np.random.Generator) -> list[np.ndarray]:
    """Draw numbers of `least` to `most` digits.

    Args:
        pool: Indices of the digit images to draw from, int64 [P].
        count: Number of numbers.
        least: Digits of the shortest numbers.
        most: Digits of the longest numbers.
        random: The random generator.

    Returns:
        For each number, the indices of its digit images, int64 [digits].
    """
    lengths = random.integers(least, most, count, endpoint=True)
    return np.split(random.choice(pool, lengths.sum()), np.cumsum(lengths)[:-1])


def compose(digits: np.ndarray) -> np.ndarray:
    """Return the image of a number, uint8 [28, 20 × n], black on white, from its n digits, uint8 [n, 28, 20]."""
    return 255 - np.concatenate(digits, axis=1)


def write_sets(folder: Path, digits: np.ndarray, labels: np.ndarray, sets: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Write the images and NAME.csv of each set to a new or empty folder.

    Args:
        folder: The folder to write to.
        digits: Digit images, uint8 [N, 28, 20], white on black.
        labels: Labels of the digit images, uint8 [N].
        sets: The numbers of each set, by name; a number is the indices of its digit images.

    Raises:
        UsageError: The folder is not empty.
        RaycrnnError: The folder cannot be written; it is then deleted.
    """
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(f"{folder}: exists and is not empty; choose another directory, or delete it")
        (folder / "images").mkdir(parents=True)
        rows = {name: _write_images(folder, name, digits, labels, sets[name]) for name in sets}
        # Written last, so that all images of a CSV exist when the CSV does.
        for name in sets:
            storage.write_text(folder / f"{name}.csv", rows[name])
    except OSError as error:
        # An incomplete set is of no use, and the next run would refuse a folder that is not empty.
        shutil.rmtree(folder, ignore_errors=True)
        raise RaycrnnError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _write_images(
    folder: Path, name: str, digits: np.ndarray, labels: np.ndarray, numbers: Sequence[np.ndarray]
) -> str:
    """Write the images of one set, and return the text of the CSV that lists them."""
    rows = []
    for position, indices in enumerate(numbers):
        path = f"images/{name}_{position:06}.png"
        Image.fromarray(compose(digits[indices])).save(folder / path)
        rows.append(f"{path};|{'|'.join(map(str, labels[indices]))}|\n")
    return "".join(rows)
