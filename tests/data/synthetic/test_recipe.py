"""Recipes: files, overrides, paths and refusals."""

import json
import os

import pytest

from raycrnn.data.synthetic import recipe
from raycrnn.errors import UsageError


def test_a_file_and_overrides_are_merged_by_key(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"text": {"pattern": "a+", "words": [2, 3]}, "noise": {"share": 0}}))
    loaded = recipe.load(tmp_path / "a.json", ["noise.strength=0.1", "text.words=4", "text.pattern=[0-9]{3}"])
    assert loaded.text.pattern == ("[0-9]{3}",)
    assert loaded.text.words == (4, 4)
    assert (loaded.noise.share, loaded.noise.strength) == (0, (0.1, 0.1))


def test_paths_are_relative_to_the_recipe_and_in_overrides_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.json").write_text('{"text": {"files": "book.txt"}, "fonts": {"files": ["f", "/g"]}}')
    monkeypatch.chdir(tmp_path)
    loaded = recipe.load("deep/a.json")
    assert list(map(os.path.normpath, loaded.fonts.files)) == [str(tmp_path / "deep" / "f"), "/g"]
    assert os.path.normpath(loaded.text.files[0]) == str(tmp_path / "deep" / "book.txt")
    loaded = recipe.load("deep/a.json", ["text.files=other.txt", "fonts.files=~/f"])
    assert loaded.text.files == (str(tmp_path / "other.txt"),)
    assert loaded.fonts.files == (os.path.expanduser("~/f"),)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "give text.files, text.language or text.pattern"),
        ({"text": {"pattern": "["}}, "text.pattern = .* is not a regular expression"),
        ({"text": {"pattern": "a"}, "noize": {}}, "noize: unknown key; did you mean noise"),
        ({"text": {"pattern": "a", "language_": "en"}}, "text.language_: unknown key; did you mean text.language"),
        ({"text": {"pattern": "a"}, "line": {"slant": [5, -5]}}, r"line.slant = \[5, -5\]: must be a number or \[min"),
        ({"text": {"pattern": "a"}, "line": {"slant": 60}}, "-45 ≤ minimum ≤ maximum ≤ 45"),
        ({"text": {"pattern": "a"}, "noise": {"share": "all"}}, "noise.share = "),
        ({"text": {"pattern": "a"}, "line": {"height": [32.5, 40]}}, "line.height = "),
        ({"text": {"pattern": "a"}, "ink": {"grey": 180}, "paper": {"grey": 200}}, "ink.grey must end at least 50"),
        ({"text": []}, "text"),
    ],
)
def test_mistakes_are_refused_with_the_key(tree, message):
    with pytest.raises(UsageError, match=message) as raised:
        recipe.parse(tree, "a.json")
    assert str(raised.value).startswith("a.json: the recipe is not valid")


def test_recipes_are_hashable_because_their_fonts_and_texts_are_cached():
    assert len({recipe.parse({"text": {"pattern": "a"}}), recipe.parse({"text": {"pattern": ["a"]}})}) == 1
