"""Fixtures of several tests of prediction."""

import pytest


@pytest.fixture
def listed(images, tmp_path):
    """A CSV with images of several blocks, one malformed row and one missing image."""
    names = [f"images/{number % 4}.png" for number in range(200)]
    names[70:72] = ["images/gone.png", '"images/0.png']
    (tmp_path / "list.csv").write_text("".join(f"{name};x\n" for name in names))
    return str(tmp_path / "list.csv")
