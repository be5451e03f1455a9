"""Malformed input of each format ends in a message: which one, and nothing is written unless a line can be used."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycrnn.errors import RaycrnnError
from raycrnn.tools.convert.formats import FORMATS
from raycrnn.tools.convert.verb import Convert
from tests.conftest import draw
from tests.tools.convert import sources
from tests.tools.convert.sources import alto_line, alto_xml, encoded, page_line, page_xml, region, task

PNG = encoded(draw("abc"))
SIZE = Image.open(io.BytesIO(PNG)).size
BOX = f"0,0 {SIZE[0] - 1},0 {SIZE[0] - 1},{SIZE[1] - 1} 0,{SIZE[1] - 1}"

Maker = Callable[[Path], list[Path]]


def file(name: str, content: str | bytes) -> Maker:
    """Return a function that writes a file beside the images good.png and bad.png, the second of which is none."""

    def make(folder: Path) -> list[Path]:
        (folder / "good.png").write_bytes(PNG)
        (folder / "bad.png").write_bytes(PNG[:20])
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return [folder / name]

    return make


def lmdb_of(**entries: object) -> Maker:
    def make(folder: Path) -> list[Path]:
        values = {key.replace("_", "-").encode(): value for key, value in entries.items()}
        return [sources.write_lmdb(folder / "x.lmdb", values)]

    return make


def truncated(make: Callable[[Path], list[Path]], name: str, share: float) -> Maker:
    """Return a function that cuts off the end of a file that `make` writes."""

    def cut(folder: Path) -> list[Path]:
        inputs = make(folder)
        path = next(folder.rglob(name))
        os.truncate(path, int(path.stat().st_size * share))
        return inputs

    return cut


def good_lines(writer: Callable[..., list[Path]]) -> Maker:
    return lambda folder: writer(folder / "source", [(PNG, f"label {n}") for n in range(999)])


def pair(text: str | bytes | None, image: bytes | None = PNG) -> Maker:
    def make(folder: Path) -> list[Path]:
        if text is not None:
            (folder / "x.gt.txt").write_bytes(text.encode() if isinstance(text, str) else text)
        if image is not None:
            (folder / "x.png").write_bytes(image)
        return [folder]

    return make


def archive(*members: tuple[str, bytes] | tarfile.TarInfo) -> Maker:
    def make(folder: Path) -> list[Path]:
        with tarfile.open(folder / "x.tar", "w") as tar:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                else:
                    sources.add_member(tar, *member)
        return [folder / "x.tar"]

    return make


def link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("x.png")
    member.type, member.linkname = kind, "/etc/hostname"
    return member


def parquet(**columns: object) -> Maker:
    def make(folder: Path) -> list[Path]:
        pq.write_table(pa.table(columns), folder / "x.parquet")
        return [folder / "x.parquet"]

    return make


def struct(**fields: object) -> pa.Array:
    return pa.array([fields])


def arrow(**columns: object) -> Maker:
    def make(folder: Path) -> list[Path]:
        table = pa.table(columns)
        with pa.ipc.new_file(folder / "x.arrow", table.schema) as written:
            written.write_table(table)
        return [folder / "x.arrow"]

    return make


NOT_UTF_8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"a\xff"]).buffers())
"""A column of text whose only value is not valid UTF-8."""

IAM = "a01-000u-00 ok 154 19 408 746 1661 89"


def iam(content: str | bytes) -> Maker:
    def make(folder: Path) -> list[Path]:
        (folder / "a01-000u-00.png").write_bytes(PNG)
        (folder / "b01-000-00.png").write_bytes(b"")
        return file("lines.txt", content)(folder)

    return make


def page(lines: str, image: str = "good.png", size: tuple[int, int] = SIZE) -> Maker:
    return file("p.xml", page_xml(image, size, lines))


def alto(lines: str, image: str = "good.png", size: tuple[int, int] = SIZE, **more: object) -> Maker:
    return file("p.xml", alto_xml(image, size, lines, **more))


def tasks(*results: object, image: str = "good.png", **annotation: object) -> Maker:
    return file("export.json", json.dumps([task(image, list(results), **annotation)]))


WHOLE = {"x": 0, "y": 0, "width": 100, "height": 100}


def marked(text: object = ("a",), size: tuple[int, int] = SIZE, **box: object) -> list[dict[str, object]]:
    return region("r1", text, {**WHOLE, **box}, size)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<{root}><Page>&b;</Page></{root}>"
)
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><{root}>&a;</{root}>'

XML_CASES = {
    "truncated": (file("p.xml", "<{root}><Page>"), "not an XML file"),
    "entities": (file("p.xml", BOMB), "XML with a DTD"),
    "external entity": (file("p.xml", EXTERNAL), "XML with a DTD"),
    "other root": (file("p.xml", "<mets/>"), "its root is mets"),
    "empty file": (file("p.xml", ""), "no element found"),
    "not XML": (file("p.xml", PNG), "not an XML file"),
    "no page": (file("p.xml", "<{root}/>"), "page"),
    "unknown encoding": (file("p.xml", '<?xml version="1.0" encoding="x-none"?><{root}/>'), "not an XML file"),
}
"""Cases of PAGE and ALTO, whose root element stands for {root}."""


def xml_cases(root: str) -> dict[str, tuple[Maker, str]]:
    def with_root(make: Maker) -> Maker:
        def written(folder: Path) -> list[Path]:
            [path] = make(folder)
            path.write_bytes(path.read_bytes().replace(b"{root}", root.encode()))
            return [path]

        return written

    return {name: (with_root(make), message) for name, (make, message) in XML_CASES.items()}


CASES: dict[str, dict[str, tuple[Maker, str]]] = {
    "dtrb": {
        "no count": (lmdb_of(image_000000001=PNG), "num-samples; the first keys are [b'image-000000001']"),
        "count is no number": (lmdb_of(num_samples=b"many"), "num-samples is not a number"),
        "negative count": (lmdb_of(num_samples=b"-1"), "num-samples is not a number"),
        "huge count": (lmdb_of(num_samples=b"9" * 400), "samples that are missing"),
        "count of zero": (lmdb_of(num_samples=b"0", image_000000001=PNG), "samples after the last one"),
        "later sample": (lmdb_of(num_samples=b"1", image_000000009=PNG), "image-000000009: num-samples is 1"),
        "no label": (lmdb_of(num_samples=b"1", image_000000001=PNG), "no label"),
        "zero without a label": (lmdb_of(num_samples=b"1", image_000000000=PNG), "a sample before the first one"),
        "no image": (lmdb_of(num_samples=b"1", label_000000001=b"a"), "no such key"),
        "not an image": (lmdb_of(num_samples=b"1", image_000000001=b"x", label_000000001=b"a"), "not an image"),
        "empty image": (lmdb_of(num_samples=b"1", image_000000001=b"", label_000000001=b"a"), "an empty file"),
        "not UTF-8": (lmdb_of(num_samples=b"1", image_000000001=PNG, label_000000001=b"\xff"), "not UTF-8"),
        "empty label": (lmdb_of(num_samples=b"1", image_000000001=PNG, label_000000001=b""), "the label is empty"),
        "not a database": (file("data.mdb", "x" * 9000), "not an LMDB database"),
        "truncated": (truncated(good_lines(sources.dtrb), "data.mdb", 0.5), "bytes; copy it again"),
        "empty file": (file("data.mdb", ""), "not an LMDB database"),
    },
    "paddle": {
        "no tab": (file("l.txt", "good.png a\n"), "no tab in the line"),
        "two tabs": (file("l.txt", "good.png\ta\tb\n"), "more than one tab"),
        "empty label": (file("l.txt", "good.png\t\n"), "the label is empty"),
        "missing image": (file("l.txt", "none.png\ta\n"), "no such file"),
        "not an image": (file("l.txt", "bad.png\ta\n"), "damaged image"),
        "a folder": (file("l.txt", ".\ta\n"), "cannot be read"),
        "detection": (file("l.txt", 'good.png\t[{"transcription": "a", "points": [[0, 0]]}]\n'), "regions of a page"),
        "open list": (file("l.txt", '["good.png"\ta\n'), "malformed list of images"),
        "list of numbers": (file("l.txt", "[1, 2]\ta\n"), "malformed list of images"),
        "empty list": (file("l.txt", "[]\ta\n"), "malformed list of images"),
        "nested list": (file("l.txt", "[" * 100_000 + "\ta\n"), "malformed list of images"),
        "a NUL": (file("l.txt", "a\0.png\ta\n"), "malformed list of images"),
        "not UTF-8": (file("l.txt", b"good.png\t\xe9\n"), "not UTF-8"),
        "UTF-16": (file("l.txt", "good.png\ta\n".encode("utf-16")), "save it as UTF-8"),
        "endless line": (file("l.txt", b"x" * 2**20), "a line of more than"),
        "empty file": (file("l.txt", ""), "no line that can be used"),
        "a unit delimiter": (file("l.txt", "good.png\t|a\n"), "the label begins with |"),
        "carriage return": (file("l.txt", "good.png\ta\rb\n"), "the label contains a line end"),
    },
    "pylaia": {
        "only a name": (file("t.txt", "good\n"), "the label is empty"),
        "space first": (file("t.txt", " good a\n"), "no name of an image"),
        "missing image": (file("t.txt", "none a b\n"), "no such image"),
        "not an image": (file("t.txt", "bad a b\n"), "damaged image"),
        "plain text": (file("t.txt", "good the words\n"), "unknown symbol"),
        "the blank": (file("t.txt", "good a <ctc> b\n"), "unknown symbol"),
        "leads out": (file("t.txt", "../x/good a\n"), "leads out of the folder"),
        "absolute": (file("t.txt", "/etc/hostname a\n"), "leads out of the folder"),
        "not UTF-8": (file("t.txt", b"good \xff\n"), "not UTF-8"),
        "empty file": (file("t.txt", ""), "no line that can be used"),
        "endless name": (file("t.txt", "x" * 5000 + " a\n"), "no such image"),
        "binary": (file("t.txt", PNG), "left out"),
    },
    "gt-txt": {
        "no image": (pair("a", None), "no image for the text"),
        "no text": (pair(None), "nothing that is recognised"),
        "empty text": (pair(""), "the label is empty"),
        "only a line end": (pair("\n"), "the label is empty"),
        "two lines": (pair("a\nb\n"), "the label contains a line end"),
        "blank line": (pair("a\n\n"), "the label contains a line end"),
        "not UTF-8": (pair(b"\xe9"), "not UTF-8"),
        "not a text": (pair(PNG), "not UTF-8"),
        "too long": (pair("a" * (2**20 + 1)), "not a text of one line"),
        "not an image": (pair("a", b"GIF89a"), "damaged image"),
        "empty image": (pair("a", b""), "an empty file"),
        "a PDF": (pair("a", b"%PDF-1.4"), "a PDF document"),
    },
    "page": xml_cases("PcGts")
    | {
        "no lines": (page(""), "a page without lines"),
        "missing image": (page(page_line("a", "x", BOX), "none.png"), "no such image"),
        "not an image": (page(page_line("a", "x", BOX), "bad.png"), "damaged image"),
        "other shape": (page(page_line("a", "x", BOX), size=(10, 900)), "the image of the page has another shape"),
        "two points": (page(page_line("a", "x", "0,0 5,5")), "2 points; an area has at least three"),
        "no coordinates": (page(page_line("a", "x", "")), "neither an outline nor a baseline"),
        "a lonely baseline": (page(page_line("a", "x", "", "0,9 50,9")), "give it with --line-height"),
        "outside": (page(page_line("a", "x", "900,900 990,900 990,990")), "the outline is outside the page"),
        "no area": (page(page_line("a", "x", "1,1 9,1 5,1")), "has no area"),
        "huge": (page(page_line("a", "x", "0,0 1e300,0 0,1e300")), "no page is so large"),
        "words": (page(page_line("a", "x", "0,0 five,5")), "malformed coordinates"),
        "odd": (page(page_line("a", "x", "0,0 5,5 5")), "a point without y"),
        "many points": (page(page_line("a", "x", "1,1 " * 10_001)), "10,001 points"),
        "no text": (page(page_line("a", None, BOX)), "no label"),
        "empty text": (page(page_line("a", "", BOX)), "the label is empty"),
        "a line end": (page(page_line("a", "x\ny", BOX)), "the label contains a line end"),
    },
    "alto": xml_cases("alto")
    | {
        "no lines": (alto(""), "a page without lines"),
        "unit without a size": (alto(alto_line("a", "x", BOX), size=(0, 0), unit="mm10"), "coordinates in mm10"),
        "not an image": (alto(alto_line("a", "x", BOX), "bad.png"), "damaged image"),
        "other shape": (alto(alto_line("a", "x", BOX), size=(10, 900)), "the image of the page has another shape"),
        "empty polygon": (alto(alto_line("a", "x", "5")), "a point without y"),
        "rectangle of words": (
            alto(alto_line("a", "x", "", 'HPOS="a" VPOS="0" WIDTH="9" HEIGHT="9"')),
            "malformed coordinates",
        ),
        "infinite": (
            alto(alto_line("a", "x", "", 'HPOS="inf" VPOS="0" WIDTH="9" HEIGHT="9"')),
            "malformed coordinates",
        ),
        "negative": (alto(alto_line("a", "x", "", 'HPOS="0" VPOS="0" WIDTH="-9" HEIGHT="9"')), "no outline"),
        "baseline alone": (alto(alto_line("a", "x", "", 'BASELINE="12"')), "neither an outline nor a baseline"),
        "bad baseline": (alto(alto_line("a", "x", "", 'BASELINE="x y"')), "malformed coordinates"),
        "no text": (alto(alto_line("a", None, BOX)), "no label"),
        "empty text": (alto(alto_line("a", "", BOX)), "the label is empty"),
    },
    "doctr": {
        "truncated": (file("labels.json", '{"good.png": "a'), "not a JSON file"),
        "a list": (file("labels.json", '["good.png"]'), "not an object of images and texts"),
        "empty file": (file("labels.json", ""), "not a JSON file"),
        "empty object": (file("labels.json", "{}"), "no line that can be used"),
        "null": (file("labels.json", '{"good.png": null}'), "no label"),
        "number": (file("labels.json", '{"good.png": 12}'), "the label is not text"),
        "list of texts": (file("labels.json", '{"good.png": ["a"]}'), "the label is not text"),
        "detection": (file("labels.json", '{"good.png": {"polygons": []}}'), "regions of a page"),
        "leads out": (file("labels.json", '{"../x/good.png": "a"}'), "leads out of the folder"),
        "absolute": (file("labels.json", '{"/etc/hostname": "a"}'), "leads out of the folder"),
        "URL": (file("labels.json", '{"http://x/good.png": "a"}'), "leads out of the folder"),
        "no name": (file("labels.json", '{"": "a"}'), "no name of an image"),
        "missing image": (file("labels.json", '{"none.png": "a"}'), "no such file"),
        "surrogate": (file("labels.json", '{"good.png": "\\ud800"}'), "half of a surrogate pair"),
        "surrogate in a name": (file("labels.json", '{"\\ud800.png": "a"}'), "left out"),
        "not UTF-8": (file("labels.json", b'{"good.png": "\xe9"}'), "not UTF-8"),
        "deep": (file("labels.json", "[" * 100_000), "too many nested brackets"),
        "huge number": (file("labels.json", '{"good.png": ' + "9" * 5000 + "}"), "not a JSON file"),
    },
    "label-studio": {
        "truncated": (file("export.json", '[{"id": 1'), "not a JSON file"),
        "an object": (file("export.json", '{"tasks": []}'), "not a list of tasks"),
        "no tasks": (file("export.json", "[]"), "no line that can be used"),
        "task is no object": (file("export.json", '[{"id": 1}, 5]'), "malformed task"),
        "not annotated": (file("export.json", '[{"id": 1, "data": {}}]'), "a task without an annotation"),
        "skipped": (tasks(*marked(), was_cancelled=True), "a task without an annotation"),
        "annotations are no list": (file("export.json", '[{"annotations": 7}]'), "malformed task"),
        "no image": (file("export.json", '[{"annotations": [{"result": []}]}]'), "a task without an image"),
        "missing image": (tasks(*marked(), image="/data/upload/1/none.jpg"), "no such image"),
        "no regions": (tasks(), "it has no regions"),
        "results are no list": (file("export.json", json.dumps([task("good.png", "x")])), "malformed task"),
        "no size": (tasks({"id": "a", "value": {**WHOLE, "text": ["a"]}}), "original_width"),
        "other shape": (tasks(*marked(size=(10, 900))), "the image of the page has another shape"),
        "no text": (tasks(*marked()[:2]), "no label"),
        "number as text": (tasks(*marked([5])), "the label is not text"),
        "several texts": (tasks(*marked(["a", "b"])), "several texts for one region"),
        "no box": (tasks(*marked(x=None, y=None, width=None, height=None)), "neither an outline nor a baseline"),
        "box of words": (tasks(*marked(x="left")), "malformed coordinates"),
        "infinite rotation": (tasks(*marked(rotation=float("inf"))), "malformed coordinates"),
        "huge": (tasks(*marked(width=10**400)), "malformed coordinates"),
        "malformed polygon": (tasks(*marked(points=[[1, 2], [3]])), "malformed coordinates"),
        "outside": (tasks(*marked(x=200)), "the outline is outside the page"),
    },
    "hugging-face": {
        "truncated": (
            truncated(good_lines(sources.hugging_face), "*.parquet", 0.5),
            "not a Parquet file, or a damaged",
        ),
        "only a signature": (file("x.parquet", "PAR1"), "not a Parquet file, or a damaged one"),
        "no image column": (parquet(text=["a"]), "name the one to use with --image-column"),
        "no text column": (parquet(image=struct(bytes=PNG)), "name the one to use with --label-column"),
        "image is a number": (parquet(image=[1], text=["a"]), "is int64 and no image"),
        "struct without bytes": (parquet(image=struct(x=1), text=["a"]), "and no image"),
        "label is a number": (parquet(image=struct(bytes=PNG), label=[3]), "is int64 and no text"),
        "no bytes": (parquet(image=struct(bytes=pa.scalar(None, pa.binary())), text=["a"]), "no image in the row"),
        "path leads out": (
            parquet(image=struct(bytes=pa.scalar(None, pa.binary()), path="../x.png"), text=["a"]),
            "leads out of the folder",
        ),
        "null image": (parquet(image=pa.array([None], pa.binary()), text=["a"]), "no image in the row"),
        "path is not UTF-8": (
            parquet(image=pa.StructArray.from_arrays([pa.array([b"x"]), NOT_UTF_8], ["bytes", "path"]), text=["a"]),
            "not an image",
        ),
        "null label": (parquet(image=[PNG], text=pa.array([None], pa.string())), "no label"),
        "not an image": (parquet(image=[b"x"], text=["a"]), "not an image"),
        "not UTF-8": (parquet(image=[PNG], text=NOT_UTF_8), "not UTF-8"),
        "no rows": (
            parquet(image=pa.array([], pa.binary()), text=pa.array([], pa.string())),
            "no line that can be used",
        ),
    },
    "webdataset": {
        "truncated": (truncated(good_lines(sources.webdataset), "*.tar", 0.5), "an archive without an end"),
        "compressed and truncated": (
            file("x.tar.gz", b"\x1f\x8b\x08\0\0\0\0\0"),
            "not a tar archive, or a damaged one",
        ),
        "not an archive": (file("x.tgz", "hello"), "not a tar archive"),
        "leads out": (archive(("../x.png", PNG), ("../x.txt", b"a")), "a path that leads out of the archive"),
        "absolute": (archive(("/x.png", PNG)), "a path that leads out of the archive"),
        "symbolic link": (archive(link(tarfile.SYMTYPE), ("x.txt", b"a")), "a link or device in the archive"),
        "hard link": (archive(link(tarfile.LNKTYPE), ("x.txt", b"a")), "a link or device in the archive"),
        "device": (archive(link(tarfile.CHRTYPE)), "a link or device in the archive"),
        "no image": (archive(("x.txt", b"a"), ("x.cls", b"1")), "it has txt, cls"),
        "no text": (archive(("x.png", PNG), ("x.cls", b"1")), "no text for the image"),
        "repeated": (archive(("x.png", PNG), ("x.png", PNG), ("x.txt", b"a")), "a file that is repeated"),
        "two images": (archive(("x.png", PNG), ("x.jpg", PNG), ("x.txt", b"a")), "another image of the same line"),
        "not UTF-8": (archive(("x.png", PNG), ("x.txt", b"\xff")), "not UTF-8"),
        "two lines": (archive(("x.png", PNG), ("x.txt", b"a\nb\n")), "the label contains a line end"),
        "not JSON": (archive(("x.png", PNG), ("x.json", b"{")), "not a JSON file"),
        "JSON without a text": (archive(("x.png", PNG), ("x.json", b"[1]")), "none of the fields text, label"),
        "number as a text": (archive(("x.png", PNG), ("x.json", b'{"text": 1}')), "the label is not text"),
        "not an image": (archive(("x.png", b"x"), ("x.txt", b"a")), "not an image"),
    },
    "kraken": {
        "truncated": (truncated(good_lines(sources.kraken), "*.arrow", 0.5), "not an Arrow file, or a damaged one"),
        "only a signature": (file("x.arrow", "ARROW1\0\0"), "not an Arrow file, or a damaged one"),
        "other columns": (arrow(image=[PNG], text=["a"]), "there is no column lines; the columns are image, text"),
        "no struct": (arrow(lines=["a"]), "is string and no struct of text and im"),
        "struct of others": (arrow(lines=struct(text="a")), "and no struct of text and im"),
        "null line": (arrow(lines=pa.array([None], pa.struct({"text": pa.string(), "im": pa.binary()}))), "no image"),
        "null image": (arrow(lines=struct(text="a", im=pa.scalar(None, pa.binary()))), "no image in the row"),
        "null text": (arrow(lines=struct(text=pa.scalar(None, pa.string()), im=PNG)), "no label"),
        "empty text": (arrow(lines=struct(text="", im=PNG)), "the label is empty"),
        "number as a text": (arrow(lines=struct(text=5, im=PNG)), "the label is not text"),
        "text as an image": (arrow(lines=struct(text="a", im="x")), "no image in the row"),
        "not an image": (arrow(lines=struct(text="a", im=b"x")), "not an image"),
        "not UTF-8": (
            arrow(lines=pa.StructArray.from_arrays([NOT_UTF_8, pa.array([PNG])], ["text", "im"])),
            "not UTF-8",
        ),
    },
    "iam": {
        "no text": (iam("a01-000u-00 ok 154 19 408 746 1661 89\n"), "malformed line"),
        "empty text": (iam(f"{IAM} \n"), "the label is empty"),
        "too few numbers": (iam("a01-000u-00 ok 154 19 A|MOVE\n"), "malformed line"),
        "words instead of numbers": (iam("a01-000u-00 ok x x x x x x A\n"), "malformed line"),
        "no state": (iam(f"{IAM} a\na01-000u-00 154 19 408 746 1661 89 A\n"), "malformed line"),
        "unknown state": (iam(f"{IAM} a\na01-000u-00 prt 154 19 408 746 1661 89 A\n"), "malformed line"),
        "other name": (iam(f"{IAM} a\nx ok 154 19 408 746 1661 89 A\n"), "malformed line"),
        "leads out": (iam(f"{IAM} a\n../a01 ok 154 19 408 746 1661 89 A\n"), "malformed line"),
        "missing image": (iam(IAM.replace("a01-", "c01-") + " a\n"), "no such image"),
        "not an image": (iam(IAM.replace("a01-000u", "b01-000") + " a\n"), "an empty file"),
        "word marked err": (iam("a01-000u-00-00 err 154 408 768 27 51 AT A\n"), "a word that was cut out wrongly"),
        "not UTF-8": (iam(IAM.encode() + b" \xff\n"), "not UTF-8"),
        "only comments": (iam("# lines.txt\n"), "no line that can be used"),
    },
    "easyocr": {
        "no header": (file("labels.csv", "good.png,a\n"), "not the columns of EasyOCR"),
        "other order": (file("labels.csv", "words,filename\na,good.png\n"), "not the columns of EasyOCR"),
        "empty file": (file("labels.csv", ""), "not the columns of EasyOCR"),
        "only a header": (file("labels.csv", "filename,words\n"), "no line that can be used"),
        "no comma": (file("labels.csv", "filename,words\ngood.png\n"), "no comma in the line"),
        "no name": (file("labels.csv", "filename,words\n,a\n"), "no name of an image"),
        "no text": (file("labels.csv", "filename,words\ngood.png,\n"), "the label is empty"),
        "missing image": (file("labels.csv", "filename,words\nnone.png,a\n"), "no such file"),
        "leads out": (file("labels.csv", "filename,words\n../good.png,a\n"), "leads out of the folder"),
        "absolute": (file("labels.csv", "filename,words\n/etc/hostname,a\n"), "leads out of the folder"),
        "not UTF-8": (file("labels.csv", b"filename,words\ngood.png,\xe9\n"), "not UTF-8"),
        "a NUL": (file("labels.csv", "filename,words\na\0.png,a\n"), "no name of an image"),
        "not an image": (file("labels.csv", "filename,words\nbad.png,a\n"), "damaged image"),
    },
    "csv": {
        "open quote": (file("x.csv", '"good.png;a\n'), "a quote is not closed"),
        "after a quote": (file("x.csv", '"good.png"x;a\n'), "characters follow a closing quote"),
        "no path": (file("x.csv", ";a\n"), "the path is empty"),
        "missing image": (file("x.csv", "none.png;a\n"), "no such file"),
        "endless path": (file("x.csv", "good.png;a\n" + "x" * 256), "1  cannot be read"),
        "not an image": (file("x.csv", "bad.png;a\n"), "damaged image"),
        "a folder": (file("x.csv", "good.png;a\n/;b\n"), "cannot be read"),
        "empty label": (file("x.csv", "good.png;\n"), "the label is empty"),
        "not UTF-8": (file("x.csv", b"good.png;\xe9\n"), "the text is not utf-8"),
        "carriage returns": (file("x.csv", "good.png;a\rgood.png;b\r"), "CR alone"),
        "a spreadsheet": (file("x.csv", b"PK\x03\x04\0\0"), "not a CSV"),
        "empty file": (file("x.csv", ""), "no line that can be used"),
        "a NUL": (file("x.csv", "a\0.png;a\n"), "cannot be read"),
        "URI of no storage": (file("x.csv", "nowhere://a/b.png;a\n"), "not a URI that can be read"),
    },
}

ALL = [(name, case) for name, cases in CASES.items() for case in cases]


def test_every_format_has_ten_cases():
    assert CASES.keys() == FORMATS.keys()
    assert min(map(len, CASES.values())) >= 10


@pytest.mark.parametrize(("name", "case"), ALL)
def test_malformed_input_ends_in_a_message(tmp_path, capsys, name, case):
    make, message = CASES[name][case]
    (tmp_path / "source").mkdir()
    # Not through the command line, which takes longer than most cases.
    command = Convert.model_validate(
        {
            "inputs": make(tmp_path / "source"),
            "output": tmp_path / "out",
            "from": None if "recognised" in message else name,
        }
    )
    error = None
    try:
        command.run()
    except RaycrnnError as raised:
        error = raised
    captured = capsys.readouterr()
    assert message in f"{captured.err}{error}"
    assert captured.err.count("\n") < 25
    if error:
        assert not (tmp_path / "out").exists()
        assert captured.out == ""
    else:
        assert (tmp_path / "out" / "left_out.csv").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "out"}
