"""Lines of a recipe as the rows of a training set."""

import io

import pytest
from PIL import Image

from raycrnn import config
from raycrnn.data import csv_files, generated_lines, image, image_files
from raycrnn.data.synthetic.generator import LineGenerator
from raycrnn.data.synthetic.recipe import load
from raycrnn.errors import UsageError


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe that stands for 30 lines of digits."""
    monkeypatch.setattr(generated_lines, "LINES", 30)
    path = tmp_path / "digits.json"
    path.write_text('{"text": {"pattern": "[0-9]{3,8}"}}')
    return str(path)


def rows_of(recipe):
    settings = config.parse({"data": {"csv_files_train": recipe}}).data
    (file,) = csv_files.read_labelled_csvs([recipe], settings)
    return file


def test_a_recipe_is_read_as_rows_with_sizes(recipe):
    file = rows_of(recipe)
    assert [row.line for row in file.rows] == list(range(1, 31))
    assert all(row.label.isdecimal() and 3 <= len(row.label) <= 8 for row in file.rows)
    generator = LineGenerator(load(recipe), generated_lines.SEED)
    assert [row.label for row in file.rows] == [generator.label(number) for number in range(30)]
    for row in file.rows:
        assert image.measure(file.resolve(row)) == row.size
        with Image.open(io.BytesIO(image_files.read_bytes(file.resolve(row)))) as drawn:
            assert drawn.size == row.size


def test_variants_have_the_size_of_the_line_and_look_different(recipe):
    path = rows_of(recipe).rows[3].reference
    drawn = [image.decode(image_files.read_bytes(generated_lines.with_variant(path, number))) for number in range(4)]
    assert len({each.size for each in drawn}) == 1
    assert len({each.tobytes() for each in drawn}) == 4
    assert image_files.read_bytes(path) == image_files.read_bytes(generated_lines.with_variant(path, 0))
    assert generated_lines.with_variant("images/a.png", 3) == "images/a.png"


def test_the_sources_of_a_recipe_are_itself_and_its_texts_and_fonts(tmp_path):
    path = tmp_path / "lines.json"
    path.write_text('{"text": {"files": ["a.txt", "s3://bucket/b.txt"]}, "fonts": {"files": "fonts"}}')
    assert generated_lines.sources_of(str(path)) == [str(path), str(tmp_path / "a.txt"), str(tmp_path / "fonts")]


def test_a_recipe_that_cannot_be_used_is_refused(recipe, tmp_path):
    with pytest.raises(UsageError, match=r"none\.json"):
        rows_of(str(tmp_path / "none.json"))
    (tmp_path / "digits.json").write_text('{"text": {"patern": "a"}}')
    with pytest.raises(UsageError, match=r"digits\.json(.|\n)*text\.patern: unknown key"):
        generated_lines._generator.cache_clear()
        rows_of(recipe)
