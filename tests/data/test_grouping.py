"""Groups of rows, and the folds that they are divided into."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.data import grouping, labelled_csvs
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.errors import UsageError
from tests.conftest import write_set


def csv_of(paths: list[str], name: str = "/lines/a.csv") -> CsvFile:
    return CsvFile(name, [Row(path, "ab", line) for line, path in enumerate(paths, 1)])


def folds_of(paths: list[str], folds: int, pattern: str | None = None, seed: int = 0) -> dict[str, int | None]:
    """Return the fold of each path of one CSV."""
    (found,) = grouping.folds_of_rows([csv_of(paths)], folds, pattern, seed)
    return dict(zip(paths, found, strict=True))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.integers(2, 8), st.integers(0, 3))
def test_the_folds_differ_by_at_most_the_largest_group(sizes, folds, seed):
    rows: Counter[int] = Counter()
    for size, fold in zip(sizes, grouping.assign(sizes, folds, seed), strict=True):
        rows[fold] += size
    assert set(rows) <= set(range(1, folds + 1))
    assert len(rows) == min(folds, len(sizes))
    assert max(rows.values()) - min(rows[fold] for fold in range(1, folds + 1)) <= max(sizes)


@given(st.lists(st.integers(0, 5), min_size=6, max_size=40), st.integers(2, 4), st.integers(0, 3))
def test_every_row_is_held_back_once_and_groups_stay_together(books, folds, seed):
    paths = [f"book{book}/{line}.png" for line, book in enumerate(books)]
    if len(set(books)) < folds:
        with pytest.raises(UsageError, match=f"training.folds={folds}: the training CSVs have only"):
            folds_of(paths, folds, "(book.)", seed)
        return
    fold_of = folds_of(paths, folds, "(book.)", seed)
    assert set(fold_of.values()) == set(range(1, folds + 1))
    for book in set(books):
        assert len({fold for path, fold in fold_of.items() if path.startswith(f"book{book}/")}) == 1
    files, own = [csv_of(paths)], [list(fold_of.values())]
    held_back = []
    for fold in range(1, folds + 1):
        (train,), (evaluation,) = grouping.hold_back(files, fold, own)
        held_back += [row.line for row in evaluation.rows]
        assert sorted(row.line for row in (*train.rows, *evaluation.rows)) == [row.line for row in files[0].rows]
    assert sorted(held_back) == [row.line for row in files[0].rows]


def test_the_seed_chooses_the_folds():
    paths = [f"{number}.png" for number in range(20)]
    assert folds_of(paths, 4, seed=1) == folds_of(paths, 4, seed=1)
    assert folds_of(paths, 4, seed=1) != folds_of(paths, 4, seed=2)


def test_a_group_and_an_image_in_two_csvs_are_one():
    files = [csv_of(["x/1.png", "y/1.png"]), csv_of(["x/2.png", "../lines/y/1.png", "z/1.png"], "/lines/b.csv")]
    for seed in range(5):
        (x, y), (x_again, y_again, _) = grouping.folds_of_rows(files, 3, r"(\w)/\d", seed)
        assert (x, y) == (x_again, y_again)
        (_, y), (_, y_again, _) = grouping.folds_of_rows(files, 2, None, seed)
        assert y == y_again


def test_two_groups_that_share_an_image_are_joined():
    # The expression names them by the path as it is written.
    files = [csv_of(["./1.png", "./2.png", "a/../1.png", "a/3.png", "b/4.png"])]
    for seed in range(5):
        ((first, second, third, fourth, fifth),) = grouping.folds_of_rows(files, 2, r"^[^/]*", seed)
        assert first == second == third == fourth != fifth


def test_a_path_without_a_group_is_refused_and_a_malformed_row_is_a_group():
    with pytest.raises(UsageError) as error:
        folds_of(["a_1.png", "b.png"], 2, "^(.*)_")
    assert "/lines/a.csv, line 2: 'b.png'" in str(error.value)
    file = csv_of(["a_1.png", "b.png"])
    file.rows[1] = Row("b.png", None, 2, "a quote is not closed")
    assert set(*grouping.folds_of_rows([file], 2, "^(.*)_")) == {1, 2}


def test_generated_lines_are_trained_on_by_all_folds():
    files = [csv_of(["a.png", "b.png"]), csv_of(["0", "1", "2"], "/lines/recipe.json")]
    assert grouping.folds_of_rows(files, 2)[1] == [None] * 3
    with pytest.raises(UsageError, match="only 2 images"):
        grouping.folds_of_rows(files, 3)


def configuration_of(folder, *overrides: str) -> config.Configuration:
    tree = {"data": {"csv_files_train": str(folder / "labels.csv")}, "training": {"folds": 3}}
    return config.parse(tree, overrides)


def test_the_csvs_of_a_fold_are_the_two_parts_and_all_folds_have_the_same_units(tmp_path):
    write_set(tmp_path, ["ab", "cd", "ef", "gh", "ij"])
    all_lines, units = [], set()
    for fold in (1, 2, 3):
        csvs = labelled_csvs.read(configuration_of(tmp_path, f"training.fold={fold}"))
        held_back = [row.line for file in csvs.eval for row in file.rows]
        train = [row.line for file in csvs.train for row in file.rows]
        assert sorted(train + held_back) == [1, 2, 3, 4, 5]
        all_lines += held_back
        units.add(
            "".join(
                sorted(
                    {unit for file in csvs.train for row in file.rows for unit in row.label or ""} | {*csvs.more_units}
                )
            )
        )
    assert sorted(all_lines) == [1, 2, 3, 4, 5]
    assert units == {"abcdefghij"}


def test_a_csv_with_a_weight_must_keep_rows_in_each_fold(tmp_path):
    write_set(tmp_path, ["ab", "cd", "ef"])
    write_set(tmp_path, ["gh"], "one.csv")
    weights = json.dumps({str(tmp_path / "labels.csv"): 1, str(tmp_path / "one.csv"): 2})
    problems = []
    for fold in (1, 2, 3):
        configuration = configuration_of(tmp_path, f"training.fold={fold}", f"data.csv_files_train={weights}")
        try:
            labelled_csvs.read(configuration)
        except UsageError as error:
            problems.append(str(error))
    assert len(problems) == 1 and "one.csv: fold" in problems[0]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["training.folds=1"], "training.folds"),
        (["training.fold=4"], "set folds to 4 or more"),
        (["training.fold=0"], "training.fold"),
        (["training.folds=null", "training.fold=1"], "set folds to 2 or more"),
        (["data.fold_group=("], "not a regular expression"),
    ],
)
def test_impossible_folds_are_refused(tmp_path, overrides, problem):
    with pytest.raises(UsageError, match=problem):
        configuration_of(tmp_path, *overrides)
