"""`raycrnn split`: the two CSVs, compared with the input."""

import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raycrnn.data.csv_files import read_csv
from raycrnn.tools import split
from raycrnn.tools.split import Split, hold_back


def call(*arguments: object) -> int:
    return Split.call([str(argument) for argument in arguments], "split")


def write(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    csv = folder / name
    csv.write_bytes(content.encode() if isinstance(content, str) else content)
    return csv


def lines_of(content: bytes) -> list[bytes]:
    assert content.endswith(b"\n")
    return [line + b"\n" for line in content[:-1].split(b"\n")]


def parts(folder: Path, name: str = "data") -> tuple[list[bytes], list[bytes]]:
    return tuple(lines_of((folder / f"{name}_{part}.csv").read_bytes()) for part in ("train", "eval"))


def both(folder: Path) -> list[bytes]:
    """Return the rows of both CSVs, sorted."""
    return sorted(line for part in parts(folder) for line in part)


def numbered(count: int, group_size: int = 1) -> str:
    """Return rows in groups of equal size: images/3_7.png is row 7, of group 3."""
    return "".join(f"images/{row // group_size}_{row}.png;|{row}|\n" for row in range(count))


def is_subsequence(part: list, whole: list) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


raw_labels = st.text(st.characters(codec="utf-8", exclude_characters='\r\n"'), max_size=8)
raw_paths = ("images/{}_{}.png", '"images/{}_{}.png"', '"images/{}_;""{}"".png"', "s3://b/{}_{}.png", "/a/{}_{}.png")
shares, seeds = st.floats(0.01, 0.99), st.integers(0, 99)


@st.composite
def grouped_lines(draw) -> list[tuple[int, bytes]]:
    """Draw rows of two or more groups in any order; each is its group and its line without the line end."""
    groups = draw(st.permutations([0, 1, *draw(st.lists(st.integers(0, 6), max_size=25))]))
    paths = (draw(st.sampled_from(raw_paths)).format(group, row) for row, group in enumerate(groups))
    texts = (path + draw(raw_labels.map(";{}".format) | st.just("")) for path in paths)
    return [(group, text.encode()) for group, text in zip(groups, texts, strict=True)]


@given(grouped_lines(), shares, seeds, st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_rows_are_unchanged_and_groups_are_not_divided(rows, share, seed, line_end, last_has_end):
    group_of = {line + line_end: group for group, line in rows}
    content = b"".join(group_of)
    with tempfile.TemporaryDirectory() as name:
        csv = write(Path(name), content if last_has_end else content.removesuffix(line_end))
        assert call(csv, "--group", r"/(\d+)_", "--share", share, "--seed", seed) == 0
        train, held_back = parts(Path(name))
    assert train and held_back
    assert sorted(train + held_back) == sorted(group_of)
    assert is_subsequence(train, list(group_of)) and is_subsequence(held_back, list(group_of))
    assert not {group_of[line] for line in train} & {group_of[line] for line in held_back}


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8), shares, seeds)
@example([5, 5], 0.9, 0)
@example([9, 9], 0.01, 0)
def test_no_choice_of_groups_is_closer_to_the_share(sizes, share, seed):
    held_back = hold_back(sizes, share, seed)
    choices = [choice for n in range(1, len(sizes)) for choice in combinations(range(len(sizes)), n)]
    missed = {choice: abs(sum(sizes[group] for group in choice) - share * sum(sizes)) for choice in choices}
    assert missed[tuple(sorted(held_back))] == min(missed.values())


def test_every_group_can_be_chosen_for_evaluation():
    sizes = [1, 2, 3, 4] * 10
    chances = Counter(group for seed in range(200) for group in hold_back(sizes, 0.2, seed))
    assert sum(sizes[group] for group in hold_back(sizes, 0.2, 0)) == 20
    assert min(chances[group] for group in range(40)) > 15


@pytest.mark.parametrize(
    ("share", "expected"), [(0.1, 20), (0.25, 50), (0.29, 58), (0.9, 180), (0.0001, 1), (0.9999, 199)]
)
def test_without_groups_the_share_is_met_exactly(tmp_path, share, expected):
    assert call(write(tmp_path, numbered(200)), "--share", share) == 0
    train, held_back = parts(tmp_path)
    assert (len(train), len(held_back)) == (200 - expected, expected)


def test_the_share_is_met_with_groups_of_equal_size(tmp_path):
    assert call(write(tmp_path, numbered(300, group_size=10)), "--group", r"(\d+)_") == 0
    train, held_back = parts(tmp_path)
    assert (len(train), len(held_back)) == (270, 30)


def test_evaluation_rows_come_from_all_parts_of_the_file(tmp_path):
    call(write(tmp_path, numbered(400)), "--share", 0.25)
    lines = numbered(400).encode().splitlines(keepends=True)
    quarters = Counter(lines.index(line) // 100 for line in parts(tmp_path)[1])
    assert min(quarters[quarter] for quarter in range(4)) > 10


def test_the_choice_depends_on_the_seed(tmp_path):
    csv = write(tmp_path, numbered(100))
    held_back = []
    for seed in (0, 0, 1):
        assert call(csv, "--seed", seed, "--overwrite") == 0
        held_back.append(parts(tmp_path)[1])
    assert held_back[0] == held_back[1] != held_back[2]


def test_the_group_is_the_whole_match_if_the_pattern_has_no_group(tmp_path):
    csv = write(tmp_path, "".join(f"{book}/{page}.png;x\n" for page in range(5) for book in "abcd"))
    assert call(csv, "--group", "^[a-d]", "--share", 0.5) == 0
    train, held_back = ({line[:1] for line in part} for part in parts(tmp_path))
    assert len(train) == len(held_back) == 2 and train | held_back == {b"a", b"b", b"c", b"d"}


def test_both_csvs_start_with_the_byte_order_mark(tmp_path):
    csv = write(tmp_path, "\ufeff" + numbered(4))
    assert call(csv, "--share", 0.5) == 0
    train, held_back = parts(tmp_path)
    marks = [part.pop(0)[:3] for part in (train, held_back)]
    assert marks == [b"\xef\xbb\xbf"] * 2
    rows = [row for name in ("train", "eval") for row in read_csv(tmp_path / f"data_{name}.csv").rows]
    assert Counter(row.path for row in rows) == Counter(row.path for row in read_csv(csv).rows)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "Latin-1"])
def test_the_encoding_is_a_setting(tmp_path, encoding):
    content = numbered(6).replace("|\n", "|é|\n")
    csv = write(tmp_path, content.encode(encoding))
    assert call(csv, "--encoding", encoding, "--share", 0.5) == 0
    texts = [(tmp_path / f"data_{name}.csv").read_bytes().decode(encoding) for name in ("train", "eval")]
    assert Counter("".join(texts).splitlines()) == Counter(content.splitlines())
    assert [text.count("\n") for text in texts] == [3, 3]


def test_the_delimiter_is_a_setting(tmp_path):
    csv = write(tmp_path, "a;1\tx\nb;2\ty\n")
    assert call(csv, "--delimiter", "\t", "--group", r";(\d)$", "--share", 0.5) == 0
    assert both(tmp_path) == [b"a;1\tx\n", b"b;2\ty\n"]


def test_blank_lines_are_ignored(tmp_path):
    assert call(write(tmp_path, "\na;1\n\n  \nb;2\n\n")) == 0
    assert both(tmp_path) == [b"a;1\n", b"b;2\n"]


def test_files_are_named_after_the_input(tmp_path, capsys):
    csv = write(tmp_path, numbered(10), "lines.v2.txt")
    assert call(csv) == 0
    assert sorted(os.listdir(tmp_path)) == ["lines.v2.txt", "lines.v2_eval.txt", "lines.v2_train.txt"]
    printed = capsys.readouterr().out
    assert str(tmp_path / "lines.v2_train.txt") in printed and str(tmp_path / "lines.v2_eval.txt") in printed


def test_the_last_line_of_the_output_is_json(tmp_path, capsys):
    assert call(write(tmp_path, numbered(40, group_size=4)), "--group", r"(\d+)_", "--json") == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {
        "train": {"file": str(tmp_path / "data_train.csv"), "rows": 36, "groups": 9},
        "eval": {"file": str(tmp_path / "data_eval.csv"), "rows": 4, "groups": 1},
    }
    assert table[1].split()[:4] == ["train", "36", "9", "90.0%"]
    assert table[2].split()[:4] == ["eval", "4", "1", "10.0%"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_both_csvs_get_the_header(tmp_path, encoding):
    rows = [f"{number}.png\té{number}\n" for number in range(4)]
    csv = write(tmp_path, "".join(["file\twords\n", *rows]).encode(encoding))
    assert call(csv, "--delimiter", "tab", "--share", 0.5) == 0
    texts = [(tmp_path / f"data_{name}.csv").read_bytes().decode(encoding) for name in ("train", "eval")]
    first_lines, other_lines = zip(*(text.split("\n", 1) for text in texts), strict=True)
    assert first_lines == ("file\twords", "file\twords")
    assert sorted("".join(other_lines).splitlines(keepends=True)) == rows


# -- duplicates


def test_rows_with_the_same_image_stay_together_and_conflicts_are_named(tmp_path, capsys):
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(b"image %d" % number)
        (tmp_path / f"copy_{number}.png").write_bytes(b"image %d" % number)
    rows = [
        f"{number}.png;x\n./{number}.png;x\ncopy_{number}.png;{'x' * (1 + (number == 3))}\n" for number in range(10)
    ]
    for seed in range(5):
        assert call(write(tmp_path, "".join(rows)), "--share", 0.4, "--seed", seed, "--overwrite") == 0
        held_back = b"".join(parts(tmp_path)[1]).decode()
        assert len(held_back.splitlines()) == 12
        assert sum(row in held_back for row in rows) == 4
    err = capsys.readouterr().err
    assert "30 rows show 10 images; rows with the same image are in the same CSV" in err
    assert "one image has different labels: 'x' in line 10, 'xx' in line 12 (3.png)" in err


def test_groups_that_share_an_image_are_joined(tmp_path):
    csv = write(tmp_path, "a/1.png;x\na/2.png;x\nb/1.png;x\n./a/2.png;x\nc/1.png;x\n")
    assert call(csv, "--group", r"^([^/]*)", "--share", 0.5) == 0
    groups = [{line.decode()[:3] for line in part} for part in parts(tmp_path)]
    assert {"a/1", "a/2", "./a"} in [group - {"b/1", "c/1"} for group in groups]


def test_a_csv_of_one_image_cannot_be_split(tmp_path, capsys):
    assert call(write(tmp_path, "1.png;x\n./1.png;x\n")) == 2
    assert "all rows show the same image" in capsys.readouterr().err


# -- other folders


def make_images(root: Path) -> dict[str, Path]:
    """Return image files by the row that refers to each from `root`/data."""
    for folder in ("data/images", "beside", "far/away"):
        (root / folder).mkdir(parents=True)
    (root / "data" / "link").symlink_to(root / "far" / "away")
    return {
        "images/a.png;|a|": root / "data" / "images" / "a.png",
        "./images/b.png": root / "data" / "images" / "b.png",
        "../beside/c.png;c;c": root / "beside" / "c.png",
        "link/../d.png;": root / "far" / "d.png",
        '"images/e;""e"".png";"|e|"': root / "data" / "images" / 'e;"e".png',
        '"images/f.png";f "f"': root / "data" / "images" / "f.png",
        'images/g"g".png;|g|': root / "data" / "images" / 'g"g".png',
    }


def images_of(csv: Path) -> list[tuple[str, str]]:
    """Return the content of each row's image file, and its label."""
    file = read_csv(csv)
    return [(Path(file.resolve(row)).read_text(), row.label) for row in file.rows]


@pytest.mark.parametrize("output", ["splits", "data/deep/er", "data", "far/away", 'semi;"colon', "."])
def test_rewritten_paths_refer_to_the_same_files(tmp_path, monkeypatch, output):
    images = make_images(tmp_path)
    for image in images.values():
        image.write_text(image.name)
    csv = write(tmp_path / "data", "".join(row + "\n" for row in images))
    monkeypatch.chdir(tmp_path)
    assert call(csv.relative_to(tmp_path), "--output", output, "--share", 0.4) == 0
    train, held_back = (images_of(tmp_path / output / f"data_{part}.csv") for part in ("train", "eval"))
    assert len(images_of(csv)) == len(images)
    assert Counter(train + held_back) == Counter(images_of(csv))


def test_paths_are_rewritten_for_an_output_behind_a_symbolic_link(tmp_path):
    csv = write(tmp_path / "data", "a.png;a\nb.png;b\n")
    (tmp_path / "data" / "a.png").touch(), (tmp_path / "data" / "b.png").touch()
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "folder")
    assert call(csv, "--output", tmp_path / "link") == 0
    for name in ("train", "eval"):
        (row,) = read_csv(tmp_path / "link" / f"data_{name}.csv").rows
        assert os.path.samefile(tmp_path / "link" / row.path, tmp_path / "data" / f"{row.label}.png")


def test_a_folder_in_another_unicode_normal_form_is_not_created_again(tmp_path, capsys):
    csv = write(tmp_path / unicodedata.normalize("NFD", "Bücher"), numbered(10))
    given = Path(unicodedata.normalize("NFC", str(csv)))
    assert call(given) == 0
    assert os.listdir(tmp_path) == [csv.parent.name]
    assert both(csv.parent) == sorted(lines_of(csv.read_bytes()))
    capsys.readouterr()
    assert "already exists" in refused(capsys, given)
    assert call(given, "--output", given.parent / "one" / "two") == 0
    assert both(csv.parent / "one" / "two") == sorted(b"../../" + line for line in lines_of(csv.read_bytes()))


def test_absolute_paths_and_uris_are_not_rewritten(tmp_path):
    fixed = ["/abs/a.png;a\n", '"s3://bucket/b;.png";b\n', "gs://bucket/c.png\n", "~/scans/f.png;f\n"]
    csv = write(tmp_path / "data", "".join(fixed) + 'd.png;|d|;x\n"e.png";"e"\n')
    assert call(csv, "--output", tmp_path / "out") == 0
    rewritten = ["../data/d.png;|d|;x\n", '../data/e.png;"e"\n']
    assert both(tmp_path / "out") == sorted(line.encode() for line in fixed + rewritten)


# -- refusals


def refused(capsys, *arguments: object, code: int = 2) -> str:
    assert call(*arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_existing_files_are_replaced_only_with_overwrite(tmp_path, capsys):
    csv = write(tmp_path, numbered(10))
    kept = write(tmp_path, "mine", "data_eval.csv")
    message = refused(capsys, csv)
    assert str(kept) in message and "--overwrite" in message
    assert kept.read_text() == "mine" and not (tmp_path / "data_train.csv").exists()
    assert call(csv, "--overwrite") == 0
    assert len(parts(tmp_path)[1]) == 1


def test_the_error_of_an_unmatched_path_names_it(tmp_path, capsys):
    csv = write(tmp_path, "a_1.png;x\n\nb.png;x\nc_3.png;x\n")
    message = refused(capsys, csv, "--group", r"_(\d)")
    assert f"{csv}, line 3: 'b.png'" in message and "a_1" not in message
    assert os.listdir(tmp_path) == ["data.csv"]


@pytest.mark.parametrize("pattern", [r"a(\d)?", r"(\d*)"])
def test_an_empty_group_name_is_not_a_match(tmp_path, capsys, pattern):
    csv = write(tmp_path, "a1.png\nab.png\na2.png")
    assert "line 2: 'ab.png'" in refused(capsys, csv, "--group", pattern)


def test_long_lists_of_rows_are_truncated(tmp_path, capsys):
    message = refused(capsys, write(tmp_path, numbered(1000)), "--group", "nowhere")
    assert "line 20:" in message and "line 21:" not in message and "980 more" in message


def test_malformed_rows_are_listed(tmp_path, capsys):
    csv = write(tmp_path, 'a.png;x\n"b.png;x\n"c.png"x;y\n;d\ne.png;"e\n')
    message = refused(capsys, csv)
    assert [line for line in range(1, 6) if f"{csv}, line {line}:" in message] == [2, 3, 4, 5]
    assert os.listdir(tmp_path) == ["data.csv"]


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        ("", [], "no rows"),
        ("a.png;x\n", [], "1 row;"),
        ("r1/a;x\nr1/b;x\n", ["--group", r"r\d"], "all 2 rows are in the group 'r1'"),
        ("a;x\nb;x\n", ["--group", "(a"], "--group"),
        ("a;x\nb;x\n", ["--share", "0"], "share"),
        ("a;x\nb;x\n", ["--share", "1"], "share"),
        ("a;x\nb;x\n", ["--seed", "-1"], "seed"),
        ("a;x\nb;x\n", ["--delimiter", ";;"], "delimiter"),
        ("a;x\nb;x\n", ["--encoding", "klingon"], "klingon"),
        (b"a;x\nb;\xe9\n", [], "line 2"),
    ],
)
def test_invalid_input_and_options_are_refused(tmp_path, capsys, content, arguments, expected):
    message = refused(capsys, write(tmp_path, content), *arguments)
    assert expected.lstrip("-") in message
    assert os.listdir(tmp_path) == ["data.csv"]


def test_a_missing_csv_is_reported(tmp_path, capsys):
    assert "no such CSV" in refused(capsys, tmp_path / "data.csv")


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    csv = write(tmp_path, numbered(10))
    assert "is a file" in refused(capsys, csv, "--output", csv)
    assert "cannot be written" in refused(capsys, csv, "--output", csv / "below", code=1)


def test_a_rewritten_path_outside_the_encoding_is_refused(tmp_path, capsys):
    csv = write(tmp_path / "数字", "é.png;é\nb.png;b\n".encode("cp1252"))
    message = refused(capsys, csv, "--encoding", "cp1252", "--output", tmp_path / "out")
    assert "cp1252" in message and not (tmp_path / "out").exists()


def test_a_rewritten_path_with_a_line_end_is_refused(tmp_path, capsys):
    csv = write(tmp_path / "a\nb", "a.png;a\nb.png;b\n")
    assert "line end" in refused(capsys, csv, "--output", tmp_path / "out")


def test_no_incomplete_file_is_left(tmp_path, capsys, monkeypatch):
    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(split.os, "replace", full_disk)
    message = refused(capsys, write(tmp_path, numbered(10)), code=1)
    assert f"{tmp_path}: the CSVs cannot be written: No space left" in message
    assert os.listdir(tmp_path) == ["data.csv"]


def test_the_module_can_be_run(tmp_path):
    csv = write(tmp_path, numbered(10))
    command = [sys.executable, "-m", "raycrnn.tools.split", csv, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["eval"]["rows"] == 1


def test_neither_file_is_written_if_one_cannot_be(tmp_path, capsys):
    (tmp_path / "data.csv").write_text("a.png;x\nb.png;y\n")
    (tmp_path / "data_train.csv").write_text("older")
    (tmp_path / "data_eval.csv").mkdir()
    assert Split.call([str(tmp_path / "data.csv"), "--overwrite"], "split") == 1
    assert "is a directory" in capsys.readouterr().err
    assert (tmp_path / "data_train.csv").read_text() == "older"
