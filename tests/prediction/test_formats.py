"""The formats of transcriptions."""

import csv
import io
import json
import os

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.data import csv_files
from raycrnn.prediction import formats
from raycrnn.prediction.formats import ROWS, LabelFormat, Layout

READ = {"path": "a.png", "text": 'say "a", b\n', "score": 1.5, "confidence": 0.25, "log_prob": -0.5, "error": None}

OTHER = {"text": "c", "confidence": 0.125, "log_prob": -2.0}

UNIT = {"text": "a", "confidence": 0.5, "left": 0, "top": 0, "right": 7, "bottom": 32}

FAILED = {**dict.fromkeys(ROWS.names), "path": "b.png", "error": "no such file: b.png"}


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ROWS)


def read(**values) -> dict:
    return {**READ, "alternatives": [OTHER], "units": None, **values}


def numbered(first: int, stop: int) -> pa.Table:
    return table(*(read(path=str(number)) for number in range(first, stop)))


def write(layout: Layout, *tables: pa.Table) -> bytes:
    buffer = io.BytesIO()
    file = buffer if layout.format == "parquet" else io.TextIOWrapper(buffer, "utf-8", newline="", write_through=True)
    writer = formats.make_writer(file, layout)
    for each in tables:
        writer.write(each)
    writer.close()
    assert writer.read == sum(row["error"] is None for each in tables for row in each.to_pylist())
    return buffer.getvalue()


def test_csv_has_the_columns_of_its_layout():
    rows = list(csv.reader(io.StringIO(write(Layout("csv", 3), table(read(), FAILED)).decode(), newline="")))
    assert rows == [
        ["path", "text", "score", "error", "text_2", "score_2", "text_3", "score_3"],
        ["a.png", READ["text"], "1.5000", "", "c", "-1.5000", "", ""],
        ["b.png", "", "", "no such file: b.png", "", "", "", ""],
    ]
    rows = list(csv.reader(io.StringIO(write(Layout("csv", 2, confidence=True), table(read(), FAILED)).decode())))
    assert rows[0] == ["path", "text", "score", "error", "confidence", "text_2", "score_2"]
    assert [row[4] for row in rows[1:]] == ["0.2500", ""]


def test_csv_on_stdout_ends_lines_in_lf_and_quotes_line_ends_in_fields(monkeypatch):
    stdout = io.StringIO(newline="")
    monkeypatch.setattr(formats.sys, "stdout", stdout)
    formats.make_writer(stdout, Layout("csv")).write(
        table(read(path="a\rb", text="c\nd\r\n"), read(path="x", text="y"))
    )
    assert stdout.getvalue() == 'path,text,score,error\n"a\rb","c\nd\r\n",1.5000,\nx,y,1.5000,\n'


def test_csv_has_its_header_once_and_not_before_the_first_rows():
    buffer = io.StringIO(newline="")
    writer = formats.make_writer(buffer, Layout("csv"))
    writer.write(table())
    assert buffer.getvalue() == ""
    writer.write(table(read()))
    writer.write(table(FAILED))
    writer.close()
    assert buffer.getvalue().count("path,text,score,error") == 1
    assert write(Layout("csv")) == b"path,text,score,error\r\n"


def test_json_lines_contain_all_fields_or_the_error():
    lines = write(Layout("jsonl"), table(read(), read(units=[UNIT]), FAILED)).decode().splitlines()
    records = [json.loads(line) for line in lines]
    assert records[0] == {**READ, "alternatives": [OTHER]}
    assert records[1] == {**READ, "alternatives": [OTHER], "units": [UNIT]}
    assert records[2] == {"path": "b.png", "text": None, "score": None, "error": "no such file: b.png"}


@pytest.mark.parametrize("spans", [False, True])
def test_parquet_has_typed_columns_that_pandas_reads(spans, monkeypatch):
    monkeypatch.setattr(formats, "ROWS_PER_GROUP", 4)
    units = [UNIT] if spans else None
    tables = [table(read(units=units), FAILED), *(table(read(units=units)) for _ in range(5))]
    data = write(Layout("parquet", spans=spans), *tables)
    names = [name for name in ROWS.names if spans or name != "units"]
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.schema_arrow.equals(pa.schema([ROWS.field(name) for name in names]))
    assert file.read().to_pylist() == pa.concat_tables(tables).select(names).to_pylist()
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [4, 3]
    frame = pandas.read_parquet(io.BytesIO(data))
    assert list(frame.columns) == names
    assert frame["confidence"].dtype == float
    assert frame["alternatives"][0][0]["text"] == "c"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)))
def test_any_text_comes_back_from_every_format(texts):
    rows = table(*(read(text=text) for text in texts))
    layouts = {form: write(Layout(form), rows) for form in ("csv", "jsonl", "parquet")}
    assert [row["text"] for row in csv.DictReader(io.StringIO(layouts["csv"].decode(), newline=""))] == texts
    assert [json.loads(line)["text"] for line in layouts["jsonl"].decode().split("\n")[:-1]] == texts
    assert pq.read_table(io.BytesIO(layouts["parquet"]))["text"].to_pylist() == texts


def write_labels(rows: list[dict], paths: list[str], folder: object = None, **settings: object) -> list[str]:
    """Return the lines of labels that were read as the units of their texts."""
    data = config.Data(csv_files_train="x", **settings)
    labels = LabelFormat(pa.chunked_array([list(map(os.fsencode, paths))], pa.binary()), folder and str(folder), data)
    return write(Layout("labels", labels=labels), table(*rows)).decode().splitlines()


def units(*texts: str) -> dict:
    return {"text": "".join(texts), "units": [{**UNIT, "text": text} for text in texts]}


@given(st.lists(st.sampled_from(["a", "é", "漢", " ", ";", '"', "|", "ch", "<b>", "e", "\N{COMBINING ACUTE ACCENT}"])))
def test_labels_hold_the_units_that_were_read_or_are_left_out(texts):
    lines = write_labels([read(**units(*texts))], ["/a.png"])
    is_sequence = csv_files.split_label("".join(texts)) != tuple(texts)
    if is_sequence and "|" in texts:
        assert not lines
        return
    [parsed] = [csv_files.parse_row(line, 1) for line in lines]
    assert (parsed.path, csv_files.split_label(parsed.label)) == ("/a.png", tuple(texts))


def test_labels_have_the_delimiters_of_the_model():
    settings = {"csv_delimiter": ",", "string_split_delimiter": "~"}
    rows = [read(**units("1", ",5")), read(**units("1", ","))]
    assert write_labels(rows, ["/a.png", "/b.png"], **settings) == ['/a.png,"~1~,5~"', '/b.png,"1,"']


def test_labels_are_written_in_utf_8_and_a_line_says_so_if_the_model_has_another_encoding(caplog):
    assert write_labels([read(**units("ſ"))], ["/a.png"], encoding="cp1252") == ["/a.png;ſ"]
    assert "train on them with data.encoding=utf-8" in caplog.text


def test_labels_name_images_from_the_folder_of_the_csv(tmp_path, monkeypatch):
    for name in ("scans", "real", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    names = ["a.png", str(tmp_path / "b.png"), "s3://lines/c.png", "lines\n.png", "link/../d.png"]
    paths = [f"{tmp_path}/scans/a.png", names[1], names[2], f"{tmp_path}/{names[3]}", f"{tmp_path}/{names[4]}"]
    rows = [read(path=name, **units("x")) for name in names]
    assert write_labels(rows, paths, tmp_path / "out") == [
        "../scans/a.png;x",
        f"{tmp_path}/b.png;x",
        "s3://lines/c.png;x",
        "../d.png;x",
    ]
    assert write_labels(rows[:1], ["/tmp/~a.png"], "/tmp") == ["./~a.png;x"]


def test_images_that_are_left_out_of_the_labels_are_named_up_to_a_number(caplog):
    caplog.set_level("INFO")
    assert write_labels([read(**units("x")), read(**units("x")), *[FAILED] * 6], ["/a.png", "/\udcff.png", *"cdefgh"])
    first, *others, last = caplog.messages
    assert first.endswith("left out of the labels: its name is not UTF-8, so a CSV cannot hold it: rename the file")
    assert others == ["b.png: left out of the labels: no such file: b.png"] * (formats.MOST_LEFT_OUT_SHOWN - 1)
    assert last == "labels written: 1; images left out: 7"
