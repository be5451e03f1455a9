"""The JSON export of Label Studio's template for OCR.

A task has the place of an image and annotations, whose results belong together by `id`: a rectangle or polygon in
percent of the image, and a text. Predictions are not read.
"""

import re
import urllib.parse
from pathlib import Path
from typing import TypeGuard

from raycrnn.data.image_files import has_image_suffix
from raycrnn.tools.convert.line_polygons import MAX_COORDINATE, Points, check_points, rectangle
from raycrnn.tools.convert.pages import MarkedPage, PageLine, cut_lines, find_page_image
from raycrnn.tools.convert.records import ImportOptions, Items, LeftOut, UnusableLine, shown
from raycrnn.tools.convert.source_files import JsonObject, last_part, read_json

FILES = "*.json"

UPLOAD_PREFIX = re.compile("[0-9a-f]{8}-")
"""Label Studio puts it before the names of uploaded files."""


def recognises(file: Path, head: bytes) -> bool:
    """Return whether a file with these first bytes is a JSON list of tasks."""
    return re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", head) is not None


def read(file: Path, options: ImportOptions) -> Items:
    """Yield the lines of the images in an export."""
    tasks = read_json(file)
    if not isinstance(tasks, list) or isinstance(tasks, JsonObject):
        raise UnusableLine("not a list of tasks", shown(tasks))
    for number, task in enumerate(tasks, 1):
        name = task.get("id") if isinstance(task, JsonObject) else None
        place = f"task {name if isinstance(name, int | str) else number}"
        try:
            yield from _task(file, place, task, options)
        except UnusableLine as error:
            yield LeftOut.because(error, file, place)


def _task(file: Path, place: str, task: object, options: ImportOptions) -> Items:
    """Yield the lines of a task. Raises `UnusableLine` if the task as a whole cannot be used."""
    if not isinstance(task, JsonObject):
        raise UnusableLine("malformed task", shown(task))
    annotations = task.get("annotations") or task.get("completions") or []
    if not isinstance(annotations, list):
        raise UnusableLine("malformed task", f"annotations: {shown(annotations)}")
    valid = [found for found in annotations if isinstance(found, JsonObject) and found.get("was_cancelled") is not True]
    if not valid:
        raise UnusableLine("a task without an annotation", "it was not annotated, or skipped")
    chosen = next((found for found in valid if found.get("ground_truth") is True), valid[0])
    for _ in range(len(valid) - 1):
        yield LeftOut(file, place, "another annotation of the same image", "the first, or the ground truth, is used")
    image = _find_image(file, task.get("data"), options)
    results = _results(chosen.get("result"))
    size = _original_size(results)
    regions: dict[str, list[JsonObject]] = {}
    for result in results:
        regions.setdefault(str(result.get("id")), []).append(result)
    lines = [_line(f"{place}, region {name}", name, found, size) for name, found in regions.items()]
    yield from cut_lines(MarkedPage(file, image.stem, image, size, lines), options)


def _find_image(file: Path, data: object, options: ImportOptions) -> Path:
    """Return the path of a task's image. Raises `UnusableLine` if it is missing."""
    values = [value for _, value in data if isinstance(value, str)] if isinstance(data, JsonObject) else []
    if not values:
        raise UnusableLine("a task without an image", shown(data))
    names = list(map(_name_in, values))
    # Tasks may have other texts, such as a shelfmark.
    name = next(filter(has_image_suffix, names), names[0])
    try:
        return find_page_image(file, name, options.images)
    except UnusableLine:
        return find_page_image(file, UPLOAD_PREFIX.sub("", last_part(name), count=1), options.images)


def _name_in(value: str) -> str:
    """Return the path in the URL of an image; another text unchanged."""
    try:
        url = urllib.parse.urlsplit(value)
    except ValueError:
        return value
    # /data/local-files/?d=folder/name.png is a file on the disk of the server.
    return urllib.parse.parse_qs(url.query).get("d", [urllib.parse.unquote(url.path)])[0]


def _results(found: object) -> list[JsonObject]:
    """Return the parts of an annotation that have a value. Relations between regions have none."""
    if not isinstance(found, list) or not all(isinstance(result, JsonObject) for result in found):
        raise UnusableLine("malformed task", f"result: {shown(found)}")
    valued = [result for result in found if isinstance(result.get("value"), JsonObject)]
    if not valued:
        raise UnusableLine("a task without an annotation", "it has no regions")
    return valued


def _original_size(results: list[JsonObject]) -> tuple[float, float]:
    """Return the width and height in pixels of the image on which the regions were drawn."""
    for result in results:
        width, height = result.get("original_width"), result.get("original_height")
        if _is_number(width) and _is_number(height) and 0 < width <= MAX_COORDINATE and 0 < height <= MAX_COORDINATE:
            return float(width), float(height)
    raise UnusableLine("malformed task", "no region has original_width and original_height")


def _line(place: str, name: str, results: list[JsonObject], size: tuple[float, float]) -> PageLine:
    """Return the line of the results that belong together. Each repeats the region, and one has the text."""
    values = [value for result in results if isinstance(value := result.get("value"), JsonObject)]
    text = next((found for value in values if (found := value.get("text")) is not None), None)
    if isinstance(text, list) and len(text) < 2:
        text = text[0] if text else ""
    try:
        if isinstance(text, list):
            raise UnusableLine("several texts for one region", shown(text))
        if any(result.get("image_rotation") for result in results):
            raise UnusableLine("a region of a rotated image", "annotate the image without rotating it")
        outline = next(filter(None, (_outline(value, size) for value in values)), [])
    except UnusableLine as error:
        return PageLine(place, name, text, [], [], error)
    return PageLine(place, name, text, outline, [])


def _outline(value: JsonObject, size: tuple[float, float]) -> Points:
    """Return the polygon or rectangle of a value in pixels; empty if it has neither.

    Args:
        value: Coordinates in percent of the image.
        size: Width and height of the image in pixels.
    """
    points = value.get("points")
    box = [value.get(name) for name in ("x", "y", "width", "height")]
    across, down = size[0] / 100, size[1] / 100
    try:
        if isinstance(points, list):
            return check_points([(float(x) * across, float(y) * down) for x, y in points])
        if box == [None] * 4:
            return []
        left, top, width, height = map(float, box)  # type: ignore[arg-type]
        rotation = float(value.get("rotation") or 0)  # type: ignore[arg-type]
        return check_points(rectangle(left * across, top * down, width * across, height * down, rotation))
    except (TypeError, ValueError, OverflowError):
        raise UnusableLine("malformed coordinates", shown(points if isinstance(points, list) else box)) from None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
