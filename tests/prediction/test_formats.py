"""The formats of transcriptions."""

import csv
import io
import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.data import csv_files
from raycrnn.prediction import formats
from raycrnn.prediction.formats import ROWS, Layout

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


@given(st.lists(st.sampled_from(["a", "é", "漢", " ", ";", '"', "|", "ch", "<b>"])))
def test_labels_hold_the_units_that_were_read_or_are_left_out(units):
    row = read(path="a.png", text="".join(units), units=[{**UNIT, "text": unit} for unit in units])
    lines = write(Layout("labels"), table(row)).decode().splitlines()
    is_sequence = any(len(unit) > 1 for unit in units) or units[:1] == ["|"]
    if is_sequence and "|" in units:
        assert not lines
        return
    [parsed] = [csv_files.parse_row(line, 1) for line in lines]
    assert (parsed.path, csv_files.split_label(parsed.label)) == ("a.png", tuple(units))


def test_labels_name_images_from_the_folder_of_the_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = ["scans/a;1.png", str(tmp_path / "b.png"), "s3://lines/c.png", "two\nlines.png"]
    rows = table(*(read(path=path, text="x", units=[{**UNIT, "text": "x"}]) for path in paths))
    lines = write(Layout("labels", folder=str(tmp_path / "out")), rows).decode().splitlines()
    assert lines == ['"../scans/a;1.png";x', "../b.png;x", "s3://lines/c.png;x"]


def test_images_that_are_left_out_of_the_labels_are_named_up_to_a_number(caplog):
    write(Layout("labels"), table(*[FAILED] * 7))
    assert caplog.messages == [
        *["b.png: left out of the labels: no such file: b.png"] * formats.MOST_LEFT_OUT_SHOWN,
        "left out of the labels: 7 images; --format=csv lists those not read",
    ]
