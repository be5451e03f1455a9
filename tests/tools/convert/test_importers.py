"""Each importer, on files that an independent writer made as the other tool does."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import read_csv, split_label
from raycrnn.data.image_files import has_image_suffix
from raycrnn.tools.convert.formats import FORMATS
from tests.conftest import draw
from tests.tools.convert import sources
from tests.tools.convert.sources import IMAGE_WRITERS, PAGE_WRITERS, call, encoded

LABELS = ["A MOVE to", "ſchön; gut", 'say "x"', "京A1 ", "Ελλ,ην", "N/A"]
KINDS = ["PNG", "JPEG", "TIFF"]
LINES = [(encoded(draw(label), KINDS[number % 3]), label) for number, label in enumerate(LABELS)]


def converted(output):
    """Return the (bytes, label) of the rows in the CSV that was written."""
    csv = read_csv(output / "labels.csv")
    assert csv.header is None
    assert not [row for row in csv.rows if row.problem]
    return [(open(csv.resolve(row), "rb").read(), row.label) for row in csv.rows]


def test_every_format_has_a_writer():
    assert IMAGE_WRITERS.keys() | PAGE_WRITERS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", IMAGE_WRITERS)
def test_a_csv_has_the_same_images_and_labels(tmp_path, capsys, name):
    inputs = IMAGE_WRITERS[name](tmp_path / "source", LINES)
    assert call(*inputs, tmp_path / "out", "--json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert (result["format"], result["lines"], result["left_out"]) == (name, len(LINES), {})
    assert result["units"] == len(set("".join(LABELS)))
    assert "left out" not in captured.err
    assert not (tmp_path / "out" / "left_out.csv").exists()
    images, labels = zip(*converted(tmp_path / "out"), strict=True)
    assert images == tuple(image for image, _ in LINES)
    assert [split_label(label) for label in labels] == [tuple(label) for label in LABELS]


@pytest.mark.parametrize("name", IMAGE_WRITERS)
def test_a_packed_data_set_has_the_same_images_and_labels(tmp_path, name):
    inputs = IMAGE_WRITERS[name](tmp_path / "source", LINES)
    assert call(*inputs, tmp_path / "out", "--to", "parquet") == 0
    rows = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert [row["image"] for row in rows] == [image for image, _ in LINES]
    assert ["".join(split_label(row["label"])) for row in rows] == LABELS
    sizes = [Image.open(io.BytesIO(image)).size for image, _ in LINES]
    assert [(row["width"], row["height"]) for row in rows] == sizes


@pytest.mark.parametrize("name", PAGE_WRITERS)
def test_lines_are_cut_out_of_pages(tmp_path, capsys, name):
    texts = ["A MOVE & more", "ſchön", "<x>"]
    inputs = PAGE_WRITERS[name](tmp_path / "source", texts)
    assert call(*inputs, tmp_path / "out") == 0
    assert "left out" not in capsys.readouterr().err
    rows = converted(tmp_path / "out")
    assert [label for _, label in rows] == texts
    page, boxes = sources.page_of(texts)
    for (data, _), box in zip(rows, boxes, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(page.crop(box)))


def test_a_packed_data_set_is_unpacked(tmp_path):
    source = tmp_path / "own.csv"
    (tmp_path / "a.png").write_bytes(LINES[0][0])
    source.write_text("a.png;|ſt|a|\na.png\n", encoding="utf-8")
    assert call(source, tmp_path / "packed", "--to", "parquet") == 0
    assert call(tmp_path / "packed", tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "|ſt|a|"), (LINES[0][0], None)]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("paddle", "."),
        ("pylaia", "."),
        ("gt-txt", "."),
        ("doctr", "images"),
        ("iam", "lines"),
        ("easyocr", "."),
        ("csv", "."),
    ],
)
def test_images_in_another_folder(tmp_path, capsys, name, folder):
    inputs = IMAGE_WRITERS[name](tmp_path / "source", LINES)
    for image in [path for path in (tmp_path / "source").rglob("*") if has_image_suffix(path.name)]:
        moved = tmp_path / "scans" / image.relative_to(tmp_path / "source")
        moved.parent.mkdir(parents=True, exist_ok=True)
        image.rename(moved)
    assert call(*inputs, tmp_path / "out", "--images", tmp_path / "scans" / folder) == 0
    assert len(converted(tmp_path / "out")) == len(LINES)
    assert "left out" not in capsys.readouterr().err


def test_images_that_a_parquet_file_only_names_in_another_folder(tmp_path):
    [name] = sources.write_images(tmp_path / "scans", LINES[:1])
    image = pa.array([{"bytes": None, "path": name}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": image, "text": ["x"]}), tmp_path / "x.parquet")
    assert call(tmp_path / "x.parquet", tmp_path / "out", "--images", tmp_path / "scans") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "x")]


def test_a_table_with_the_column_names_of_a_packed_data_set(tmp_path):
    (tmp_path / "scan.png").write_bytes(LINES[1][0])
    image = pa.array([{"bytes": LINES[0][0], "path": None}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    columns = {"image": image, "label": ["x"], "path": ["scan.png"], "width": [1], "height": [1]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert call(tmp_path / "x.parquet", tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "x")]


def samples(*numbers, count):
    """Return the entries of a database with samples of these numbers, labelled with them, and a count."""
    entries = {b"num-samples": b"%d" % count}
    for number in numbers:
        entries |= {b"image-%09d" % number: LINES[0][0], b"label-%09d" % number: b"%d" % number}
    return entries


@pytest.mark.parametrize("numbers", [(1, 50, 100), (0, 1, 2)])
def test_samples_of_a_database_with_other_numbers(tmp_path, numbers):
    source = sources.write_lmdb(tmp_path / "x.lmdb", samples(*numbers, count=max(numbers[-1], 3)))
    assert call(source, tmp_path / "out") == 0
    assert [label for _, label in converted(tmp_path / "out")] == list(map(str, numbers))
    assert (tmp_path / "out" / "left_out.csv").exists() == (numbers[-1] == 100)


def test_a_byte_order_mark_is_not_part_of_a_text_in_an_archive(tmp_path):
    inputs = sources.webdataset(tmp_path / "source", [(LINES[0][0], "a"), (LINES[1][0], "\ufeffb")])
    assert call(*inputs, tmp_path / "out") == 0
    assert [label for _, label in converted(tmp_path / "out")] == ["a", "b"]


def test_what_a_mac_adds_to_an_archive_is_skipped(tmp_path, capsys):
    names = ["./._0001.png", "./0001.png", "./._0001.txt", "./0001.txt", "__MACOSX/._0001.txt"]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in names:
            sources.add_member(archive, name, LINES[0][0] if name.endswith("g") else b"x")
    assert call(tmp_path / "x.tar", tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "x")]
    assert "x.tar: 3 hidden files and folders were left out, for example ._0001.png" in capsys.readouterr().err
    assert not (tmp_path / "out" / "left_out.csv").exists()


def test_names_of_pylaia_are_found_in_another_form(tmp_path):
    (tmp_path / "u\u0308.PNG").write_bytes(LINES[0][0])
    (tmp_path / "train.txt").write_text("\u00fc a b\n", encoding="utf-8")
    assert call(tmp_path / "train.txt", tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "|a|b|")]


def test_a_name_in_a_paddle_list_may_begin_with_a_bracket(tmp_path):
    (tmp_path / "[1]scan.png").write_bytes(LINES[0][0])
    (tmp_path / "list.txt").write_text("[1]scan.png\tx\n", encoding="utf-8")
    assert call(tmp_path / "list.txt", tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "x")]


def test_several_images_of_one_text_in_a_paddle_list(tmp_path):
    names = sources.write_images(tmp_path, LINES[:2])
    (tmp_path / "list.txt").write_text(f"{json.dumps(names)}\ttwice\n", encoding="utf-8")
    assert call(tmp_path / "list.txt", tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "twice"), (LINES[1][0], "twice")]


@pytest.mark.parametrize(
    ("name", "dictionary", "units"),
    [
        ("paddle", "A\n \nz\nſ\n", ("A", " ", "z", "ſ")),
        ("pylaia", "<ctc> 0\nA 1\n<space> 2\nth 3\n", ("A", " ", "th")),
    ],
)
def test_a_dictionary_becomes_an_alphabet(tmp_path, capsys, name, dictionary, units):
    inputs = IMAGE_WRITERS[name](tmp_path / "source", [(LINES[0][0], "A A")])
    (tmp_path / "dictionary.txt").write_text(dictionary, encoding="utf-8")
    assert call(*inputs, tmp_path / "out", "--dictionary", tmp_path / "dictionary.txt") == 0
    assert Alphabet.load(tmp_path / "out" / "alphabet.json").units == units
    assert "not in the dictionary" not in capsys.readouterr().err


def test_units_that_a_paddle_dictionary_lacks_are_named(tmp_path, capsys):
    inputs = sources.paddle(tmp_path / "source", [(LINES[0][0], "A b")])
    (tmp_path / "dictionary.txt").write_text("A\n", encoding="utf-8")
    assert call(*inputs, tmp_path / "out", "--dictionary", tmp_path / "dictionary.txt") == 0
    assert "2 units of the labels are not in the dictionary: ' ', 'b': add them" in capsys.readouterr().err


def test_symbols_of_pylaia_are_units(tmp_path):
    sources.write_images(tmp_path, LINES[:2], "l{}".format)
    (tmp_path / "train.txt").write_text("l1 th e <space> | q\nl2 a | <space>\n", encoding="utf-8")
    (tmp_path / "syms.txt").write_text("".join(f"{unit} 1\n" for unit in ["th", "e", "<space>", "q", "a", "|"]))
    arguments = (tmp_path / "train.txt", tmp_path / "out", "--dictionary", tmp_path / "syms.txt", "--from", "pylaia")
    assert call(*arguments) == 0
    # A unit `|` has a place only in a label of single characters.
    assert converted(tmp_path / "out") == [(LINES[1][0], "a| ")]
    assert "a unit contains |" in (tmp_path / "out" / "left_out.csv").read_text(encoding="utf-8")


def test_words_of_iam(tmp_path):
    sources.write_images(tmp_path / "words", LINES[:2], lambda number: f"a01-000u-00-{number:02}")
    rows = "a01-000u-00-01 ok 154 408 768 27 51 AT A|b\na01-000u-00-02 err 154 507 766 213 48 NN MOVE\n"
    (tmp_path / "words.txt").write_text(rows, encoding="utf-8")
    assert call(tmp_path / "words.txt", tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[0][0], "A b")]
    assert "a word that was cut out wrongly" in (tmp_path / "out" / "left_out.csv").read_text(encoding="utf-8")


def test_the_original_image_of_a_text_is_used(tmp_path):
    for name, (data, _) in zip(["a.bin.png", "a.png", "b.nrm.PNG", "c.png"], LINES, strict=False):
        (tmp_path / name).write_bytes(data)
    for name in "ab":
        (tmp_path / f"{name}.gt.txt").write_bytes(b" x \r\n")
    assert call(tmp_path, tmp_path / "out") == 0
    assert converted(tmp_path / "out") == [(LINES[1][0], " x "), (LINES[2][0], " x ")]
    left_out = (tmp_path / "out" / "left_out.csv").read_text(encoding="utf-8").splitlines()
    assert left_out[1:] == [
        f"{tmp_path}/a.bin.png,,another image of the same line,a.png is used",
        f"{tmp_path}/c.png,,no text for the image,there is no c.gt.txt",
    ]


def test_single_gt_txt_files_find_their_images(tmp_path):
    [folder] = sources.gt_txt(tmp_path / "source", LINES)
    texts = sorted(folder.glob("*/*.gt.txt"))
    assert call(*texts[:2], tmp_path / "out") == 0
    assert converted(tmp_path / "out") == LINES[:2]


def test_columns_of_a_parquet_file_are_chosen(tmp_path, capsys):
    inputs = sources.hugging_face(tmp_path / "source", LINES, ("scan", "transcript"))
    assert call(*inputs, tmp_path / "out") == 2
    assert "columns are scan, language, transcript: name the one to use with --image-column" in capsys.readouterr().err
    assert call(*inputs, tmp_path / "out", "--image-column", "scan", "--label-column", "transcript") == 0
    assert converted(tmp_path / "out") == LINES


def test_the_splits_of_kraken_are_not_lost_in_silence(tmp_path, capsys):
    assert call(*sources.kraken(tmp_path / "source", LINES), tmp_path / "out") == 0
    assert "the division in train is not kept" in capsys.readouterr().err
