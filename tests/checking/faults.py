"""A data set in which every fault occurs once."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import GLYPHS, draw

TEXTS = [f"{GLYPHS[i % 8]}{GLYPHS[(i * 3 + 1) % 8]} {GLYPHS[i // 8]}{GLYPHS[(i + 5) % 8]}e" for i in range(64)]
"""Different texts in which each unit occurs often."""

FINDINGS = {
    ("malformed row", "train"): 1,
    # One is missing, and the path of the other begins with a byte order mark.
    ("no such file", "train"): 2,
    ("cannot be read", "train"): 1,
    ("not an image", "train"): 1,
    ("unsupported image", "train"): 1,
    ("damaged image", "train"): 1,
    ("too many pixels", "train"): 1,
    ("empty label", "train"): 1,
    ("unknown unit", "train"): 1,
    ("label too long", "train"): 1,
    ("no such file", "eval"): 1,
    ("no label", "eval"): 1,
    ("rare unit", "train"): 4,
    ("unit not in training", "eval"): 1,
    # The Cyrillic а.
    ("look-alike", ""): 1,
    ("labels in two forms", "train"): 1,
    ("outer space", "train"): 1,
    ("repeated space", "train"): 1,
    ("invisible character", "train"): 3,
    ("byte order mark", "train"): 1,
    ("label too long to read", "eval"): 1,
    ("compressed line", "train"): 1,
    ("page", "train"): 1,
    ("upright image", "train"): 1,
    ("blank image", "train"): 1,
    ("repeated image", "train"): 1,
    ("image in train and eval", "eval"): 1,
    ("different labels", ""): 2,
}
"""The rows of all findings about `plant`, by their kind and their data set."""


def plant(folder: Path) -> Path:
    """Write a training set, an evaluation set, their images and a configuration, and return the configuration."""
    images = folder / "images"
    images.mkdir(parents=True)
    train = [row(images, f"{number}.png", text) for number, text in enumerate(TEXTS)]
    evaluation = [row(images, f"eval_{number}.png", text[::-1]) for number, text in enumerate(TEXTS[:20])]
    train += [*without_use(images), *with_odd_labels(images), *with_odd_images(images)]
    evaluation += ["images/gone_too.png;ab", row(images, "unknown_in_eval.png", "abŋ")]
    evaluation.append(row(images, "narrow_in_eval.png", "a" * 8, Image.linear_gradient("L").resize((40, 32))))
    evaluation.append(row(images, "no_label_in_eval.png", "", draw("bare")).removesuffix(";"))
    # An empty label may be meant: that of an image without text.
    evaluation.append(row(images, "empty_in_eval.png", "", draw("void")))
    evaluation.append(copy(images, "1.png", "copy_in_eval.png", TEXTS[1]))
    (folder / "train.csv").write_text("\n".join(["image;text", *train]), encoding="utf-8")
    (folder / "eval.csv").write_text("\n".join(evaluation), encoding="utf-8")
    units = sorted({*GLYPHS, *" \u00a0\u200b\u0007а"})
    (folder / "alphabet.json").write_text(json.dumps({unit: code for code, unit in enumerate(units)}))
    data = {"csv_files_train": str(folder / "train.csv"), "csv_files_eval": str(folder / "eval.csv")}
    data |= {"lookup_alphabet_file": str(folder / "alphabet.json"), "max_rejected": 0.5}
    (folder / "config.json").write_text(json.dumps({"data": data}))
    return folder / "config.json"


def row(images: Path, name: str, label: str, image: Image.Image | None = None) -> str:
    (image or draw(label)).save(images / name)
    return f"images/{name};{label}"


def copy(images: Path, name: str, new: str, label: str) -> str:
    shutil.copy(images / name, images / new)
    return f"images/{new};{label}"


def without_use(images: Path) -> list[str]:
    """Return the rows that cannot be used."""
    (images / "folder.png").mkdir()
    (images / "text.png").write_text("a text\n" * 20)
    noise = np.random.default_rng(0).integers(0, 256, (32, 200), np.uint8)
    Image.fromarray(noise).save(images / "truncated.png")
    whole = (images / "truncated.png").read_bytes()
    (images / "truncated.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (64, 32)).save(images / "raw.tif", tiffinfo={50706: b"\1\4\0\0"})
    Image.new("1", (9000, 9000)).save(images / "bomb.png")
    return [
        '"images/0.png;ab',
        "images/gone.png;ab",
        "images/folder.png;ab",
        "images/text.png;ab",
        "images/raw.tif;ab",
        "images/truncated.png;ab",
        "images/bomb.png;ab",
        row(images, "empty.png", "", draw("empty")),
        row(images, "unknown.png", "abж"),
        row(images, "narrow.png", "abcdefgh", Image.new("L", (20, 32), 80)),
    ]


def with_odd_labels(images: Path) -> list[str]:
    bom = row(images, "bom.png", "ab cd ef")
    return [
        row(images, "forms.png", "|a|b|a|", draw("forms")),
        row(images, "outer.png", "abe ", draw("outer")),
        row(images, "double.png", "ab  ce"),
        row(images, "nbsp.png", "ab\u00a0hg", draw("nbsp")),
        row(images, "zero.png", "abg\u200bgh", draw("zero")),
        row(images, "bell.png", "ab\u0007dd", draw("bell")),
        row(images, "cyrillic.png", "bаbb"),
        f"\ufeff{bom}",
    ]


def with_odd_images(images: Path) -> list[str]:
    grey = np.tile(np.arange(0, 240, 3, np.uint8), (1100, 20))
    return [
        row(images, "wide.png", "abcd hgf", draw("abcd hgf").resize((1200, 32))),
        row(images, "page.png", "fade", Image.fromarray(grey)),
        row(images, "upright.png", "head", draw("head").resize((39, 50))),
        row(images, "blank.png", "bead", Image.new("L", (77, 32), 200)),
        copy(images, "2.png", "copy.png", TEXTS[2]),
        copy(images, "3.png", "other.png", "dead"),
    ]
