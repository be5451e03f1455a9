"""Warnings about images that are no lines of text, too wide or blank."""

import pytest

from raycrnn.data.unusual_images import UnusualImages


@pytest.mark.parametrize(
    ("size", "units", "expected"),
    [
        ((400, 32), None, []),
        ((30, 30), None, []),
        ((30, 32), None, []),
        ((30, 38), None, ["page"]),
        ((1275, 1650), None, ["page"]),
        ((30, 60), 2, []),
        ((30, 60), 3, ["page"]),
        ((3000, 2000), None, ["page"]),
        ((8000, 1000), None, []),
        ((1024, 32), None, []),
        ((1026, 32), 40, ["wide"]),
        ((3100, 96), None, ["wide"]),
    ],
)
def test_pages_and_lines_that_are_too_wide_are_unusual(size, units, expected):
    unusual = UnusualImages((32, 1024))
    unusual.add("a.png", size, units)
    assert list(unusual.found) == expected


def test_lines_that_stand_upright_are_measured_along_their_text():
    unusual = UnusualImages((32, 1024), "top_to_bottom")
    for size in ((32, 400), (32, 1026), (400, 32)):
        unusual.add("x.png", size)
    assert list(unusual.found) == ["wide", "page"]
    wide, page = unusual.warnings()
    assert wide.endswith("for example x.png (32 × 1,026 pixels)")
    assert page.startswith("1 of 3 images are wider than high")
    assert "data.line_orientation=top_to_bottom" in page


def test_a_warning_has_the_count_and_the_first_example():
    unusual = UnusualImages((32, 1024))
    for name in ("a.png", "b.png"):
        unusual.add(name, (900, 1200))
    unusual.add("c.png", (100, 32), is_blank=True)
    page, blank = unusual.warnings()
    assert page.startswith("2 of 3 images are higher than wide")
    assert page.endswith("for example a.png (900 × 1,200 pixels)")
    assert blank == "1 of 3 images are blank: all their pixels are equal; for example c.png (100 × 32 pixels)"
