"""A picture of some lines with their labels."""

from PIL import Image

from raycrnn.data.synthetic.generator import LineGenerator

COLUMNS = 2
MARGIN = 10
LABEL_HEIGHT = 18
MAX_HEIGHT = 96
"""Pixels of the highest picture of a line; horizontal lines that are higher are shrunk."""

MAX_WIDTH = 640
MAX_LENGTH = 400
"""Pixels of the longest picture of a vertical line."""


def contact_sheet(generator: LineGenerator, count: int) -> Image.Image:
    """Return a picture, mode L, of the first lines of a generator, each above its label.

    Labels are drawn with a font of the recipe, and shaped like the lines.
    """
    is_vertical = generator.recipe.line.direction == "vertical"
    limits = (MAX_WIDTH, MAX_LENGTH if is_vertical else MAX_HEIGHT)
    cells = []
    for row in range(count):
        line = generator.draw(row)
        line.thumbnail(limits)
        cells.append(_cell(line, generator.caption(row, LABEL_HEIGHT)))
    columns = min(count, 12) if is_vertical else COLUMNS
    rows = [cells[first : first + columns] for first in range(0, count, columns)]
    widths = [max(row[column].width for row in rows if column < len(row)) for column in range(columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("L", (sum(widths) + MARGIN * (columns + 1), sum(heights) + MARGIN * (len(rows) + 1)), 160)
    top = MARGIN
    for in_row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for cell, width in zip(in_row, widths, strict=False):
            sheet.paste(cell, (left, top))
            left += width + MARGIN
        top += height + MARGIN
    return sheet


def _cell(line: Image.Image, caption: Image.Image) -> Image.Image:
    cell = Image.new("L", (max(line.width, caption.width), line.height + caption.height), 255)
    cell.paste(line, (0, 0))
    cell.paste(caption, (0, line.height))
    return cell
