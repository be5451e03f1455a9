"""What several test files share: small labelled images made on the spot, the real sets, one local Ray."""

import os
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

GLYPHS = "abcdefgh"


def draw(text: str, height: int = 32) -> Image.Image:
    """Black text on white in Pillow's own font, in the given height."""
    font = ImageFont.load_default(size=int(height * 0.75))
    width = int(font.getlength(text)) + height // 2
    image = Image.new("L", (width, height), 255)
    ImageDraw.Draw(image).text((height // 4, height // 16), text, fill=0, font=font)
    return image


def write_set(folder: Path, labels: list[str], name: str = "labels.csv") -> Path:
    """Images of labels and the CSV that lists them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    stem = Path(name).stem
    rows = []
    for number, label in enumerate(labels):
        draw(label).save(folder / "images" / f"{stem}_{number}.png")
        rows.append(f"images/{stem}_{number}.png;{label}\n")
    (folder / name).write_text("".join(rows), encoding="utf-8")
    return folder / name


def words(count: int, seed: int = 0) -> list[str]:
    """Random words of two to five of eight letters."""
    import random

    generator = random.Random(seed)
    return ["".join(generator.choices(GLYPHS, k=generator.randint(2, 5))) for _ in range(count)]


@pytest.fixture
def data_folder():
    """A folder of the real sets: `data_folder("captcha4")`; skips where it is absent."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("RAYCRNN_DATA", Path(__file__).parents[2] / "shared" / "data"))
        if not (root / name).is_dir():
            pytest.skip(f"the set {name} is not beside the project; RAYCRNN_DATA may name its folder")
        return root / name

    return find


@pytest.fixture(scope="session")
def local_ray():
    """One local Ray for all tests that need one."""
    from raycrnn import cluster

    with cluster.connect("local"):
        yield
