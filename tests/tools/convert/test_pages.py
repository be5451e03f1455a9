"""Pages: where their images are found, their sizes and orientation, and the text of their lines."""

import numpy as np
import pytest
from PIL import Image

from raycrnn.data.csv_files import read_csv
from raycrnn.tools.convert import pages
from raycrnn.tools.convert.pages import find_page_image
from raycrnn.tools.convert.records import UnusableLine
from tests.tools.convert import sources
from tests.tools.convert.sources import alto_line, alto_xml, call, corners, page_line, page_xml, points_of

SIZE = (300, 200)
BOX = (30, 20, 130, 60)


def gradient(size: tuple[int, int] = SIZE) -> Image.Image:
    """Return an image whose pixels are different along both sides."""
    ys, xs = np.mgrid[: size[1], : size[0]]
    return Image.fromarray((xs * 2 % 256).astype(np.uint8) // 2 + (ys // 2).astype(np.uint8))


def cut_out(tmp_path, xml: str, *options: object) -> list[tuple[np.ndarray, str]]:
    """Convert a page in the folder, and return its lines as arrays with their labels."""
    (tmp_path / "p.xml").write_text(xml, encoding="utf-8")
    assert call(tmp_path / "p.xml", tmp_path / "out", *options) == 0
    csv = read_csv(tmp_path / "out" / "labels.csv")
    return [(np.asarray(Image.open(csv.resolve(row))), row.label) for row in csv.rows]


@pytest.mark.parametrize(
    "version", ["2010-03-19", "2013-07-15", "2016-07-15", "2017-07-15", "2018-07-15", "2019-07-15"]
)
def test_all_versions_of_page(tmp_path, version):
    gradient().save(tmp_path / "scan.png")
    line = page_line("a", "x", points_of(BOX))
    if version < "2013":
        points = "".join(f'<Point x="{x}" y="{y}"/>' for x, y in corners(BOX))
        line = line.replace(f'<Coords points="{points_of(BOX)}"/>', f"<Coords>{points}</Coords>")
    [(pixels, _)] = cut_out(tmp_path, page_xml("scan.png", SIZE, line, version))
    assert np.array_equal(pixels, np.asarray(gradient().crop(BOX)))


@pytest.mark.parametrize("version", [2, 3, 4])
def test_rectangles_and_words_of_all_versions_of_alto(tmp_path, version):
    gradient().save(tmp_path / "scan.png")
    words = '<String CONTENT="two"/><SP/><String CONTENT="wor"/><String CONTENT="ds"/><HYP CONTENT="-"/>'
    line = f'<TextLine ID="a" HPOS="30" VPOS="20" WIDTH="99" HEIGHT="39">{words}</TextLine>'
    [(pixels, label)] = cut_out(tmp_path, alto_xml("scan.png", SIZE, line, version))
    assert label == "two words-"
    assert np.array_equal(pixels, np.asarray(gradient().crop(BOX)))


def test_strings_of_alto_without_any_space_are_words(tmp_path):
    gradient().save(tmp_path / "scan.png")
    line = alto_line("a", "two", points_of(BOX)).replace("</TextLine>", '<String CONTENT="words"/></TextLine>')
    assert cut_out(tmp_path, alto_xml("scan.png", SIZE, line))[0][1] == "two words"


def test_the_text_of_a_page_line_is_the_best_one_or_its_words(tmp_path):
    gradient().save(tmp_path / "scan.png")
    alternatives = "".join(f'<TextEquiv index="{n}"><Unicode>text {n}</Unicode></TextEquiv>' for n in (2, 1, 3))
    words = "".join(f'<Word id="{w}"><TextEquiv><Unicode>{w}</Unicode></TextEquiv></Word>' for w in ("a", "b"))
    line = page_line("l", None, points_of(BOX))
    empty = "<TextEquiv><Unicode/></TextEquiv>"
    texts = (alternatives, words, words + alternatives, words + empty)
    lines = [line.replace("</TextLine>", f"{more}</TextLine>") for more in texts]
    found = cut_out(tmp_path, page_xml("scan.png", SIZE, "".join(lines)))
    assert [label for _, label in found] == ["text 1", "a b", "text 1", "a b"]


def test_a_polygon_of_alto_without_points_does_not_hide_the_rectangle(tmp_path):
    gradient().save(tmp_path / "scan.png")
    line = alto_line("a", "x", " ", 'HPOS="30" VPOS="20" WIDTH="99" HEIGHT="39"')
    [(pixels, _)] = cut_out(tmp_path, alto_xml("scan.png", SIZE, line))
    assert np.array_equal(pixels, np.asarray(gradient().crop(BOX)))


@pytest.mark.parametrize("unit", ["pixel", "mm10", "inch1200"])
def test_coordinates_are_scaled_to_the_image(tmp_path, unit):
    gradient((600, 400)).save(tmp_path / "scan.png")
    points = " ".join(f"{x / 2},{y / 2}" for x, y in corners(BOX))
    [(pixels, _)] = cut_out(tmp_path, alto_xml("scan.png", SIZE, alto_line("a", "x", points), unit=unit))
    assert np.array_equal(pixels, np.asarray(gradient((600, 400)).crop(BOX)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pages_are_upright_unless_the_file_has_the_size_of_the_stored_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient().save(tmp_path / "scan.png", exif=exif)
    upright = np.asarray(Image.open(tmp_path / "scan.png"))
    turns = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: np.transpose}
    turns |= {6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].T, 8: np.rot90}
    upright = turns.get(orientation, np.asarray)(upright)
    left, top, right, bottom = BOX
    size = (upright.shape[1], upright.shape[0])
    [(pixels, _)] = cut_out(tmp_path, page_xml("scan.png", size, page_line("a", "x", points_of(BOX))))
    assert np.array_equal(pixels, upright[top:bottom, left:right])
    if orientation > 4:
        stored = page_xml("scan.png", SIZE, page_line("a", "x", points_of(BOX)))
        [(pixels, _)] = cut_out(tmp_path, stored, "--overwrite")
        assert np.array_equal(pixels, np.asarray(gradient())[top:bottom, left:right])


def test_baselines_get_the_distance_of_the_lines_as_height(tmp_path):
    gradient().save(tmp_path / "scan.png")
    lines = [page_line(f"l{y}", "x", "", f"20,{y} 120,{y}") for y in (60, 100, 140)]
    found = cut_out(tmp_path, page_xml("scan.png", SIZE, "".join(lines)))
    # 30 pixels above the baseline, and 10 below it.
    assert np.array_equal(found[0][0], np.asarray(gradient().crop((20, 30, 121, 71))))
    found = cut_out(tmp_path, page_xml("scan.png", SIZE, lines[0]), "--line-height", 20, "--overwrite")
    assert np.array_equal(found[0][0], np.asarray(gradient().crop((20, 45, 121, 66))))


@pytest.mark.parametrize(("mode", "kept"), [("1", "L"), ("L", "L"), ("P", "RGB"), ("RGBA", "RGB"), ("CMYK", "RGB")])
def test_lines_of_grey_pages_are_grey(tmp_path, mode, kept):
    name = "scan.tif" if mode == "CMYK" else "scan.png"
    gradient().convert("RGB").convert(mode).save(tmp_path / name)
    (tmp_path / "p.xml").write_text(page_xml(name, SIZE, page_line("a", "x", points_of(BOX))), encoding="utf-8")
    assert call(tmp_path / "p.xml", tmp_path / "out") == 0
    assert Image.open(tmp_path / "out" / "images" / "p_a.png").mode == kept


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("scan.png", "page/scan.png"),
        ("scan.png", "scan.png"),
        ("scan.png", "images/scan.png"),
        ("sub/scan.png", "page/sub/scan.png"),
        ("../../../elsewhere/scan.png", "scan.png"),
        ("/home/somebody/scan.png", "page/scan.png"),
        (r"C:\scans\scan.png", "scan.png"),
        ("https://host/iiif/scan.png", "scan.png"),
        ("scan.tif", "scan.jpg"),
        ("scan.jpg", "scan.JPG"),
        ("\u00fc.png", "u\u0308.png"),
        ("\u00fc.tif", "images/u\u0308.png"),
        ("", "p1.tif"),
    ],
)
def test_the_image_of_a_page_is_found(tmp_path, name, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
    found = find_page_image(tmp_path / "page" / "p1.xml", name, None)
    assert found.resolve() == (tmp_path / place).resolve()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "x/../../secret.png", "a\0b", "y" * 5000])
def test_a_page_names_no_image_elsewhere(tmp_path, name):
    (tmp_path / "secret.png").touch()
    (tmp_path / "a" / "images").mkdir(parents=True)
    with pytest.raises(UnusableLine, match="no such image"):
        find_page_image(tmp_path / "a" / "images" / "p.xml", name, tmp_path / "a" / "images")


def test_polygons_and_rotated_rectangles_of_label_studio(tmp_path):
    image = gradient()
    image.save(tmp_path / "scan.png")
    box = {"x": 50, "y": 25, "width": 20, "height": 10, "rotation": 90}
    polygon = {"points": [[10, 10], [20, 10], [20, 30], [10, 30]]}
    results = [*sources.region("r", ["turned"], box, SIZE), *sources.region("p", "polygon", polygon, SIZE)]
    results.append({"type": "relation", "from_id": "r", "to_id": "p"})
    tasks = [sources.task("/data/local-files/?d=folder/scan.png", results)]
    tasks[0]["annotations"].append({"result": [], "was_cancelled": False})
    (tmp_path / "export.json").write_text(sources.json.dumps(tasks), encoding="utf-8")
    assert call(tmp_path / "export.json", tmp_path / "out", "--images", tmp_path) == 0
    csv = read_csv(tmp_path / "out" / "labels.csv")
    assert [row.label for row in csv.rows] == ["turned", "polygon"]
    # Rotated clockwise around (150, 50): 60 pixels of width point down, 20 of height to the left.
    boxes = [(130, 50, 151, 111), (30, 20, 61, 61)]
    for row, (left, top, right, bottom) in zip(csv.rows, boxes, strict=True):
        found = np.asarray(Image.open(csv.resolve(row)))
        assert np.array_equal(found, np.asarray(image)[top:bottom, left:right])
    assert "another annotation of the same image" in (tmp_path / "out" / "left_out.csv").read_text(encoding="utf-8")


def test_the_image_of_a_label_studio_task_is_not_any_text(tmp_path):
    gradient().save(tmp_path / "scan.png")
    task = sources.task("", sources.region("r", ["x"], {"x": 0, "y": 0, "width": 50, "height": 50}, SIZE))
    for place in ("/data/upload/3/0a1b2c3d-scan.png", "/data/local-files/?d=scan.png", "s3://bucket/scan.png?x=1"):
        task["data"] = {"shelfmark": "Ms. 12", "note": "http://[", "page": 3, "image": place}
        (tmp_path / "export.json").write_text(sources.json.dumps([task]), encoding="utf-8")
        assert call(tmp_path / "export.json", tmp_path / "out", "--overwrite") == 0


def test_pages_may_be_larger_than_lines(tmp_path, monkeypatch, recwarn):
    gradient().save(tmp_path / "scan.png")
    # Pillow warns of larger images, and raycrnn rejects larger images of lines.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    xml = page_xml("scan.png", SIZE, page_line("a", "x", points_of(BOX)))
    [(pixels, _)] = cut_out(tmp_path, xml)
    assert pixels.shape == (40, 100)
    assert not recwarn
    monkeypatch.setattr(pages, "MAX_PAGE_PIXELS", 50_000)
    assert call(tmp_path / "p.xml", tmp_path / "out", "--overwrite") == 1
