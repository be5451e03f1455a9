"""A picture of some images as training sees them."""

from PIL import Image

from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.data import image_files
from raycrnn.data.augment import Augmenter
from raycrnn.data.image import augment_and_fit, decode_and_limit, prepare
from raycrnn.errors import RaycrnnError

IMAGES = 12
"""Images on the sheet, evenly spread over the rows."""

GAP, MARGIN = 4, 12
"""Pixels between the versions of an image, and around the images."""

BACKGROUND = (150, 160, 172)
"""A colour that is neither ink nor paper."""


def draw(data_set: LabelledSet) -> Image.Image:
    """Draw some images of a set, each unchanged, as in evaluation, and below it as in some epochs of training.

    Raises:
        RaycrnnError: No row of the set can be used.
    """
    if not data_set.usable:
        raise RaycrnnError("no image can be used, so none can be drawn")
    step = -(-len(data_set.usable) // IMAGES)
    groups = [_versions(data_set, number) for number in data_set.usable[::step]]
    width = max(version.width for group in groups for version in group) + 2 * MARGIN
    height = sum(version.height + GAP for group in groups for version in group) + MARGIN * (len(groups) + 1)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    top = MARGIN
    for group in groups:
        for version in group:
            sheet.paste(version, (MARGIN, top))
            top += version.height + GAP
        top += MARGIN
    return sheet


def _versions(data_set: LabelledSet, number: int) -> list[Image.Image]:
    """Return an image as in evaluation, as in the first two epochs, and as in the first one with stronger effects."""
    settings = data_set.configuration
    shape, channels = settings.image.input_shape, settings.image.input_channels
    augmenter = Augmenter(settings.augmentation, channels, settings.training.seed)
    file, row = data_set.row(number)
    data = image_files.read_bytes(file.resolve(row))
    orientation = settings.data.line_orientation
    arrays = [prepare(data, shape, channels, orientation=orientation)]
    decoded = decode_and_limit(data, shape, channels, augmented=True, orientation=orientation)
    later = max(2, settings.augmentation.stronger_after_passes or 0)  # Without these, the third epoch.
    for epoch in (0, 1, later) if augmenter.strengths else ():
        arrays.append(augment_and_fit(decoded, shape, augmenter.for_sample(epoch, number)))
    return [Image.fromarray(array.squeeze(2) if channels == 1 else array) for array in arrays]
