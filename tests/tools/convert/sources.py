"""Write the formats that `raycrnn convert` reads, independently of it, as the other tools write them."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raycrnn.tools.convert.verb import Convert
from tests.conftest import draw

Line = tuple[bytes, str]
"""The bytes of an image file, and its label."""


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def call(*arguments: object) -> int:
    return Convert.call([str(argument) for argument in arguments], "convert")


def image_suffix(data: bytes) -> str:
    return {"PNG": "png", "JPEG": "jpg", "TIFF": "tif"}[Image.open(io.BytesIO(data)).format or ""]


def write_images(folder: Path, lines: Sequence[Line], names: Callable[[int], str] = "word_{}".format) -> list[str]:
    """Write the images to a folder, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, (data, _) in enumerate(lines, 1):
        written.append(f"{names(number)}.{image_suffix(data)}")
        (folder / written[-1]).write_bytes(data)
    return written


def write_lmdb(folder: Path, entries: dict[bytes, bytes]) -> Path:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as database, database.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    return folder


def dtrb(folder: Path, lines: Sequence[Line]) -> list[Path]:
    entries = {b"num-samples": b"%d" % len(lines)}
    for number, (image, label) in enumerate(lines, 1):
        entries |= {b"image-%09d" % number: image, b"label-%09d" % number: label.encode()}
    return [write_lmdb(folder / "train.lmdb", entries)]


def paddle(folder: Path, lines: Sequence[Line]) -> list[Path]:
    names = write_images(folder / "train", lines)
    rows = [f"train/{name}\t{label}\n" for name, (_, label) in zip(names, lines, strict=True)]
    (folder / "rec_gt_train.txt").write_text("".join(rows), encoding="utf-8")
    return [folder / "rec_gt_train.txt"]


def pylaia(folder: Path, lines: Sequence[Line]) -> list[Path]:
    write_images(folder / "train", lines, "im{:02}".format)
    symbols = [" ".join("<space>" if unit == " " else unit for unit in label) for _, label in lines]
    rows = [f"train/im{number:02} {row}\n" for number, row in enumerate(symbols, 1)]
    (folder / "train.txt").write_text("".join(rows), encoding="utf-8")
    return [folder / "train.txt"]


def gt_txt(folder: Path, lines: Sequence[Line]) -> list[Path]:
    for name, (_, label) in zip(write_images(folder / "a book", lines, "0{}.line".format), lines, strict=True):
        stem = name.rpartition(".")[0]
        (folder / "a book" / f"{stem}.gt.txt").write_text(f"{label}\n", encoding="utf-8")
    return [folder]


def doctr(folder: Path, lines: Sequence[Line]) -> list[Path]:
    names = write_images(folder / "images", lines)
    labels = {name: label for name, (_, label) in zip(names, lines, strict=True)}
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return [folder]


def hugging_face(folder: Path, lines: Sequence[Line], columns: Sequence[str] = ("im", "text")) -> list[Path]:
    images = pa.array([{"bytes": image, "path": "x.png"} for image, _ in lines])
    table = pa.table({columns[0]: images, "language": ["French"] * len(lines), columns[1]: [text for _, text in lines]})
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=2)
    return [folder / "train-00000-of-00001.parquet"]


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def webdataset(folder: Path, lines: Sequence[Line]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "shard-000000.tar", "w") as archive:
        for number, (image, label) in enumerate(lines):
            add_member(archive, f"a/{number:06}.{image_suffix(image)}", image)
            text, name = (label, "txt") if number % 2 else (json.dumps({"text": label}), "json")
            add_member(archive, f"a/{number:06}.{name}", text.encode())
    return [folder]


def kraken(folder: Path, lines: Sequence[Line]) -> list[Path]:
    kind = pa.struct([("text", pa.string()), ("im", pa.binary())])
    columns = {
        "lines": pa.array([{"text": label, "im": image} for image, label in lines], kind),
        "train": pa.array([True] * len(lines)),
    }
    metadata = {"lines": json.dumps({"type": "kraken_recognition_bbox", "counts": {"all": len(lines)}})}
    table = pa.table(columns).replace_schema_metadata(metadata)
    folder.mkdir(exist_ok=True)
    with pa.ipc.new_file(folder / "dataset.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return [folder / "dataset.arrow"]


def iam(folder: Path, lines: Sequence[Line]) -> list[Path]:
    images, ascii_ = folder / "lines" / "a01" / "a01-000u", folder / "ascii"
    images.mkdir(parents=True)
    ascii_.mkdir()
    rows = ["#--- lines.txt ---#\n", "#\n"]
    for number, (image, label) in enumerate(lines, 1):
        (images / f"a01-000u-{number:02}.png").write_bytes(image)
        rows.append(f"a01-000u-{number:02} ok 154 19 408 746 1661 89 {label.replace(' ', '|')}\n")
    (ascii_ / "lines.txt").write_text("".join(rows), encoding="utf-8")
    return [ascii_ / "lines.txt"]


def easyocr(folder: Path, lines: Sequence[Line]) -> list[Path]:
    names = write_images(folder, lines)
    rows = [f"{name},{label}\n" for name, (_, label) in zip(names, lines, strict=True)]
    (folder / "labels.csv").write_text("".join(["filename,words\n", *rows]), encoding="utf-8")
    return [folder]


def csv(folder: Path, lines: Sequence[Line]) -> list[Path]:
    rows = []
    for name, (_, label) in zip(write_images(folder / "own", lines), lines, strict=True):
        quoted = '"' + label.replace('"', '""') + '"' if '"' in label or ";" in label else label
        rows.append(f"own/{name};{quoted}\n")
    (folder / "own.csv").write_text("".join(rows), encoding="utf-8")
    return [folder / "own.csv"]


IMAGE_WRITERS = {
    "dtrb": dtrb,
    "paddle": paddle,
    "pylaia": pylaia,
    "gt-txt": gt_txt,
    "doctr": doctr,
    "hugging-face": hugging_face,
    "webdataset": webdataset,
    "kraken": kraken,
    "iam": iam,
    "easyocr": easyocr,
    "csv": csv,
}
"""Writers of the formats in which every line has an image of its own."""


# --- pages

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


def page_of(texts: Sequence[str]) -> tuple[Image.Image, list[Box]]:
    """Return a page of lines, black on light grey, and the boxes of the lines."""
    page, boxes = Image.new("L", (400, 40 + 50 * len(texts)), 230), []
    for number, text in enumerate(texts):
        line = draw(text)
        box = (20, 20 + 50 * number, 20 + line.width, 20 + 50 * number + line.height)
        page.paste(line.point(lambda grey: min(grey, 230)), box)
        boxes.append(box)
    return page, boxes


def corners(box: Box) -> list[tuple[int, int]]:
    left, top, right, bottom = box
    return [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]


def page_xml(image: str, size: tuple[int, int], lines: str, version: str = "2013-07-15") -> str:
    """Return a PAGE file, given the XML of its lines."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>'
        f'<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/{version}">'
        f'<Page imageFilename={quoteattr(image)} imageWidth="{size[0]}" imageHeight="{size[1]}">'
        f'<TextRegion id="r1"><Coords points="0,0 9,0 9,9"/>{lines}'
        f"<TextEquiv><Unicode>the whole region</Unicode></TextEquiv></TextRegion></Page></PcGts>"
    )


def page_line(name: str, text: str | None, points: str, baseline: str = "") -> str:
    """Return the XML of a line of PAGE."""
    coords = f'<Coords points="{points}"/>' if points else ""
    base = f'<Baseline points="{baseline}"/>' if baseline else ""
    equivalent = "" if text is None else f"<TextEquiv><Unicode>{escape(text)}</Unicode></TextEquiv>"
    return f'<TextLine id="{name}">{coords}{base}{equivalent}</TextLine>'


def points_of(box: Box) -> str:
    return " ".join(f"{x},{y}" for x, y in corners(box))


def page(folder: Path, texts: Sequence[str]) -> list[Path]:
    image, boxes = page_of(texts)
    folder.mkdir(exist_ok=True)
    image.save(folder / "scan 1.png")
    lines = [page_line(f"r1l{n}", text, points_of(box)) for n, (text, box) in enumerate(zip(texts, boxes, strict=True))]
    (folder / "page").mkdir()
    (folder / "page" / "p1.xml").write_text(page_xml("scan 1.png", image.size, "".join(lines)), encoding="utf-8")
    return [folder]


def alto_xml(image: str, size: tuple[int, int], lines: str, version: int = 4, unit: str = "pixel") -> str:
    """Return an ALTO file, given the XML of its lines."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><alto xmlns="http://www.loc.gov/standards/alto/ns-v{version}#">'
        f"<Description><MeasurementUnit>{unit}</MeasurementUnit><sourceImageInformation>"
        f"<fileName>{escape(image)}</fileName></sourceImageInformation></Description>"
        f'<Layout><Page WIDTH="{size[0]}" HEIGHT="{size[1]}" ID="p"><PrintSpace><TextBlock ID="b">{lines}</TextBlock>'
        f"</PrintSpace></Page></Layout></alto>"
    )


def alto_line(name: str, text: str | None, points: str, attributes: str = "") -> str:
    """Return the XML of a line of ALTO with one String, as eScriptorium writes it."""
    shape = f'<Shape><Polygon POINTS="{points}"/></Shape>' if points else ""
    string = "" if text is None else f"<String CONTENT={quoteattr(text)}/>"
    return f'<TextLine ID="{name}" {attributes}>{shape}{string}</TextLine>'


def alto(folder: Path, texts: Sequence[str]) -> list[Path]:
    image, boxes = page_of(texts)
    folder.mkdir(exist_ok=True)
    image.save(folder / "scan.png")
    lines = []
    for number, (text, box) in enumerate(zip(texts, boxes, strict=True)):
        points = " ".join(f"{x} {y}" for x, y in corners(box))
        lines.append(alto_line(f"l{number}", text, points, 'HPOS="0" VPOS="0" WIDTH="400" HEIGHT="90"'))
    (folder / "scan.xml").write_text(alto_xml("/x/scan.png", image.size, "".join(lines)), encoding="utf-8")
    return [folder / "scan.xml"]


def region(name: str, text: object, box: dict[str, object], size: tuple[int, int]) -> list[dict[str, object]]:
    """Return what Label Studio writes for a rectangle: the region and the text."""
    common = {"id": name, "original_width": size[0], "original_height": size[1], "image_rotation": 0}
    return [
        {**common, "type": "rectangle", "from_name": "bbox", "value": box},
        {**common, "type": "labels", "from_name": "label", "value": {**box, "labels": ["Text"]}},
        {**common, "type": "textarea", "from_name": "transcription", "value": {**box, "text": text}},
    ]


def task(image: str, results: object, **annotation: object) -> dict[str, object]:
    return {"id": 7, "data": {"ocr": image}, "annotations": [{"result": results, **annotation}], "predictions": []}


def label_studio(folder: Path, texts: Sequence[str]) -> list[Path]:
    image, boxes = page_of(texts)
    folder.mkdir(exist_ok=True)
    image.save(folder / "scan.png")
    width, height = image.size
    results = []
    for number, (text, (left, top, right, bottom)) in enumerate(zip(texts, boxes, strict=True)):
        box = {"x": 100 * left / width, "y": 100 * top / height, "rotation": 0}
        box |= {"width": 100 * (right - left - 1) / width, "height": 100 * (bottom - top - 1) / height}
        results += region(f"r{number}", [text], box, image.size)
    tasks = [task("/data/upload/3/0a1b2c3d-scan.png", results)]
    (folder / "project-3.json").write_text(json.dumps(tasks), encoding="utf-8")
    return [folder / "project-3.json"]


PAGE_WRITERS = {"page": page, "alto": alto, "label-studio": label_studio}
"""Writers of the formats in which the lines are cut out of pages."""
