"""The command: which format it recognises, what it writes, and what it refuses."""

import csv
import json
import os
import subprocess
import sys

import pytest

from raycrnn.data.csv_files import read_csv
from raycrnn.tools.convert.formats import FORMATS
from raycrnn.tools.convert.outputs import file_name
from tests.conftest import draw, write_set
from tests.tools.convert import sources
from tests.tools.convert.sources import call, encoded

PNG = encoded(draw("abc"))
LINES = [(PNG, f"label {number}") for number in range(3)]


def test_help_lists_every_format_and_imports_nothing_heavy():
    code = (
        "import sys; from raycrnn.tools.convert.verb import Convert\n"
        "try: Convert.main(['--help'])\n"
        "finally: print(sorted({'torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'lmdb'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n"), done.stderr
    assert [name for name in FORMATS if f"  {name} " not in done.stdout] == []


def test_a_csv_refers_to_images_where_they_are(tmp_path):
    [source] = sources.paddle(tmp_path / "in", LINES)
    assert call(source, tmp_path / "out" / "deeper") == 0
    rows = read_csv(tmp_path / "out" / "deeper" / "labels.csv").rows
    assert rows[0].path == "../../in/train/word_1.png"
    assert {path.name for path in (tmp_path / "out" / "deeper").iterdir()} == {"labels.csv", "convert.json"}


def test_copies_are_named_after_the_images(tmp_path):
    for folder in ("a", "b"):
        write_set(tmp_path / folder, ["x"])
    rows = ["a/images/labels_0.png;x", "b/images/labels_0.png;y", "../in/b/images/labels_0.png;z"]
    (tmp_path / "list.csv").write_text("\n".join(rows).replace("../in/", ""), encoding="utf-8")
    assert call(tmp_path / "list.csv", tmp_path / "out", "--copy") == 0
    found = [row.path for row in read_csv(tmp_path / "out" / "labels.csv").rows]
    assert found == ["images/labels_0.png", "images/labels_0_2.png", "images/labels_0_3.png"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b c.png", "b_c"),
        (r"C:\x\y.001", "y.001"),
        ("../../etc/passwd", "passwd"),
        ("..", "image"),
        (".hidden.jpg", "hidden"),
        ("ſchön", "ſchön"),
        ("\ud800\n\0;", "image"),
        ("x" * 300, "x" * 100),
        ("京" * 300, "京" * 33),
    ],
)
def test_names_of_written_images(name, expected):
    assert file_name(name) == expected


@pytest.mark.parametrize("data", [{}, {"--copy": None}])
def test_a_label_in_raycrnns_form_is_kept(tmp_path, data):
    source = write_set(tmp_path / "in", ["|ſt|a|", "plain | text", "|"])
    assert call(source, tmp_path / "out", *data) == 0
    assert [row.label for row in read_csv(tmp_path / "out" / "labels.csv").rows] == ["|ſt|a|", "plain | text", "|"]


def test_paths_that_a_row_cannot_hold_are_left_out(tmp_path):
    for stem in ("a", "b\nc"):
        (tmp_path / f"{stem}.png").write_bytes(PNG)
        (tmp_path / f"{stem}.gt.txt").write_text("x")
    assert call(tmp_path, tmp_path / "out") == 0
    assert len(read_csv(tmp_path / "out" / "labels.csv").rows) == 1
    assert call(tmp_path, tmp_path / "copied", "--copy", "--from", "gt-txt") == 0
    assert [row.path for row in read_csv(tmp_path / "copied" / "labels.csv").rows] == ["images/a.png", "images/b_c.png"]


def test_what_is_left_out_is_summarised_and_listed(tmp_path, capsys):
    [source] = sources.paddle(tmp_path / "in", LINES)
    with source.open("a", encoding="utf-8") as file:
        file.writelines(f"missing_{number}.png\tx\n" for number in range(9))
        file.write("no tab\n")
    assert call(source, tmp_path / "out", "--json") == 0
    captured = capsys.readouterr()
    assert "warning: 10 left out:\n        9  no such file\n" in captured.err
    assert captured.err.count("missing_") == 3
    result = json.loads(captured.out.splitlines()[-1])
    assert result == {
        "format": "paddle",
        "lines": 3,
        "left_out": {"no such file": 9, "no tab in the line": 1},
        "units": 8,
        "output": str(tmp_path / "out" / "labels.csv"),
    }
    with (tmp_path / "out" / "left_out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["place"], row["reason"]) for row in rows[-2:]] == [
        ("line 12", "no such file"),
        ("line 13", "no tab in the line"),
    ]
    assert {row["file"] for row in rows} == {str(source)}


def test_a_file_that_cannot_be_read_does_not_stop_the_others(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, size in (("a", 0), ("b", 100), ("c", None)):
        [path] = sources.hugging_face(tmp_path / "in" / name, LINES)
        path.write_bytes(path.read_bytes()[:size])
    assert call(tmp_path / "in", tmp_path / "out", "--from", "hugging-face") == 0
    assert len(read_csv(tmp_path / "out" / "labels.csv").rows) == 3
    assert "2  not a Parquet file, or a damaged one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "make",
    [lambda path: path.symlink_to("nowhere"), lambda path: os.mkfifo(path), lambda path: path.mkdir()],
    ids=["broken link", "named pipe", "folder"],
)
def test_what_is_no_file_neither_stops_nor_blocks(tmp_path, make):
    source = write_set(tmp_path / "in", ["x", "y"])
    for name in ("in/images/labels_1.png", "gt/b.png", "gt/b.gt.txt", "xml/a.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).unlink(missing_ok=True)
        make(tmp_path / name)
    assert call(source, tmp_path / "out") == 0
    assert len(read_csv(tmp_path / "out" / "labels.csv").rows) == 1
    for name in ("a.png", "a.gt.txt"):
        (tmp_path / "gt" / name).write_bytes(PNG if name == "a.png" else b"x")
    assert call(tmp_path / "gt", tmp_path / "pairs", "--from", "gt-txt") == 0
    assert call(tmp_path / "xml", tmp_path / "pages", "--from", "page") == 1


def test_what_is_not_searched_in_a_folder_is_logged_once(tmp_path, capsys):
    [folder] = sources.gt_txt(tmp_path / "in", LINES)
    sources.gt_txt(tmp_path / "elsewhere", LINES)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for name in (".DS_Store", "a book/._01.line.gt.txt", "__MACOSX/x.gt.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert call(folder, tmp_path / "out") == 0
    error = capsys.readouterr().err
    assert error.count(f"warning: {folder}/linked: skipped, because it is a link to a folder") == 1
    assert error.count(f"{folder}: 3 hidden files and folders were left out, for example {folder}/") == 1
    assert len(read_csv(tmp_path / "out" / "labels.csv").rows) == len(LINES)


# Recognition


def test_the_format_is_logged(tmp_path, capsys):
    assert call(write_set(tmp_path / "in", ["x"]), tmp_path / "out") == 0
    assert "format csv: raycrnn's own CSV: path;label\n" in capsys.readouterr().err


def test_files_of_two_formats_are_refused(tmp_path, capsys):
    sources.paddle(tmp_path, LINES)
    (tmp_path / "x.csv").write_text("a.png;x\n")
    assert call(tmp_path / "rec_gt_train.txt", tmp_path / "x.csv", tmp_path / "out") == 2
    assert "files of different formats" in capsys.readouterr().err
    sources.alto(tmp_path / "both", ["x"])
    sources.doctr(tmp_path / "both", LINES)
    assert call(tmp_path / "both", tmp_path / "out") == 2
    assert "files of several formats: doctr" in capsys.readouterr().err
    assert call(tmp_path / "both", tmp_path / "out", "--from", "alto") == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.bin", b"?", "not recognised; name its format with --from (dtrb"),
        ("x.png", PNG, "not recognised"),
        ("none.txt", None, "no such file or folder"),
    ],
)
def test_files_that_are_not_recognised(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert call(tmp_path / name, tmp_path / "out") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s3://bucket/x.tar", "out"], "INPUT: must be a local path"),
        (["x", "out", "--from", "word"], "--from: must be one of dtrb"),
        (["x", "out", "--delimiter", "|"], "--delimiter: must not be |"),
        (["x"], "the following arguments are required"),
        (["{source}", "{tmp}/out", "--dictionary", "{source}"], "the format csv has no dictionary"),
        (["{source}", "{tmp}/out", "--from", "dtrb", "--images", "{tmp}"], "dtrb contain their images; leave --images"),
        (["{tmp}", "{tmp}/out", "--from", "csv"], "is a folder; name a file of the format csv"),
        (["{source}", "{tmp}/out", "--images", "{tmp}/none"], "none: no such file or folder"),
    ],
)
def test_wrong_usage(tmp_path, capsys, arguments, message):
    source = write_set(tmp_path / "in", ["x"])
    arguments = [argument.format(source=source, tmp=tmp_path) for argument in arguments]
    try:
        assert call(*arguments) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    assert message in capsys.readouterr().err


# The output folder


def test_an_output_is_replaced_only_if_this_command_wrote_it(tmp_path, capsys, monkeypatch):
    source = write_set(tmp_path / "in", ["x"])
    (tmp_path / "empty").mkdir()
    output = tmp_path / "out"
    output.mkdir()
    assert call(source, output) == 0
    assert call(source, output) == 2
    assert "use --overwrite" in capsys.readouterr().err
    assert call(source, output, "--overwrite", "--to", "parquet") == 0
    assert {path.name for path in output.iterdir()} == {"00000.parquet", "convert.json"}
    (output / "thesis.txt").touch()
    assert call(source, output, "--overwrite") == 2
    assert "contains thesis.txt, which `convert` does not write" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "empty")
    assert call(source, ".") == 2
    assert ".: is the current folder" in capsys.readouterr().err
    assert call(source, source) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize("marker", [None, "{}", "?"])
def test_a_folder_that_only_looks_like_an_output_is_not_replaced(tmp_path, capsys, marker):
    mine = write_set(tmp_path / "mine", ["y"])
    if marker:
        (tmp_path / "mine" / "convert.json").write_text(marker)
    assert call(write_set(tmp_path / "in", ["x"]), tmp_path / "mine", "--overwrite") == 2
    assert "`convert` did not write it" in capsys.readouterr().err
    assert len(read_csv(mine).rows) == len(list((tmp_path / "mine" / "images").iterdir())) == 1


@pytest.mark.parametrize("options", [[], ["--copy"], ["--to", "parquet"]])
def test_an_output_is_not_replaced_if_it_contains_what_is_read(tmp_path, capsys, options):
    source = write_set(tmp_path / "in", ["x"])
    output = tmp_path / "u\u0308"
    assert call(source, output, "--copy") == 0
    (tmp_path / "link.png").symlink_to("u\u0308/images/labels_0.png")
    for image in ("u\u0308/images/labels_0.png", "\u00fc/images/labels_0.png", "link.png"):
        (tmp_path / "list.csv").write_text(f"{image};x\n", encoding="utf-8")
        assert call(tmp_path / "list.csv", output, "--overwrite", *options) == 2
        assert f"{image}: is in the folder that is replaced" in capsys.readouterr().err
    for inputs in ([output / "labels.csv"], [source, "--images", output / "images"]):
        assert call(*inputs, output, "--overwrite", *options) == 2
        assert "which would be replaced" in capsys.readouterr().err
    assert (output / "images" / "labels_0.png").exists()


def test_an_output_with_the_image_of_a_page_is_not_replaced(tmp_path, capsys):
    assert call(write_set(tmp_path / "in", ["x"]), tmp_path / "out", "--copy") == 0
    page = sources.page_xml("out/images/labels_0.png", (9, 9), sources.page_line("a", "x", "0,0 8,0 8,8"))
    (tmp_path / "p.xml").write_text(page)
    assert call(tmp_path / "p.xml", tmp_path / "out", "--overwrite") == 2
    assert "is in the folder that is replaced" in capsys.readouterr().err


def test_an_output_in_a_source_is_not_read(tmp_path, capsys):
    sources.hugging_face(tmp_path / "in", LINES)
    for options in ([], ["--overwrite"]):
        assert call(tmp_path / "in", tmp_path / "in" / "packed", "--to", "parquet", "--json", *options) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out.splitlines()[-1])["lines"] == len(LINES)
        assert "hidden" not in captured.err


def test_an_output_that_cannot_be_written_is_a_message(tmp_path, capsys):
    source = write_set(tmp_path / "in", ["x"])
    (tmp_path / "file").touch()
    assert call(source, tmp_path / "file" / "out") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_packed_images_are_divided_into_shards(tmp_path):
    noise = encoded(sources.Image.effect_noise((900, 700), 90))
    (tmp_path / "in").mkdir()
    inputs = sources.dtrb(tmp_path / "in" / "x", [(noise, "x")] * 4)
    assert call(*inputs, tmp_path / "out", "--to", "parquet", "--shard-size", "1") == 0
    assert len(list((tmp_path / "out").glob("*.parquet"))) > 1
