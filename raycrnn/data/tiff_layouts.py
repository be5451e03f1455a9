"""TIFF files in layouts of 16-bit grey that Pillow cannot read: with alpha, or where white is zero."""

import sys
from typing import IO

import numpy as np
from PIL import Image, TiffImagePlugin, TiffTags
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TiffImageFile,
)

from raycrnn.data.rejections import Rejected

WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
"""Values of PhotometricInterpretation for grey (TIFF 6.0, section 4)."""

UNSIGNED, SIGNED = (1,), (2,)
"""Values of SampleFormat."""

ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = (1,), (2,)
"""Values of ExtraSamples. With the first, grey is multiplied by alpha."""


def white_is_zero(image: Image.Image) -> bool:
    """Return whether white is zero in a deep image. Pillow inverts only images of up to 8 bits."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


class GreyTiff(TiffImageFile):
    """A TIFF file of 16-bit grey, perhaps with alpha, that Pillow's own class refuses as "unknown pixel mode".

    Grey and alpha are read as one 32-bit pixel, and `samples` separates them.
    """

    has_alpha = False
    """Whether there is a second sample per pixel."""

    def _setup(self) -> None:
        tags = self.tag_v2
        stated = {tag: tags[tag] for tag in (BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, COMPRESSION) if tag in tags}
        if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
            tags[PHOTOMETRIC_INTERPRETATION] = BLACK_IS_ZERO
        self.extra_samples = tags.get(EXTRASAMPLES, ())
        self.has_alpha = (
            tags.get(PHOTOMETRIC_INTERPRETATION) == BLACK_IS_ZERO
            and tags.get(SAMPLESPERPIXEL) == 2
            and tags.get(BITSPERSAMPLE) in ((16, 16), (16,))
            and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 1
            and tags.get(SAMPLEFORMAT, UNSIGNED) in (UNSIGNED, 2 * UNSIGNED)
        )
        if self.has_alpha:
            tags[BITSPERSAMPLE], tags[SAMPLESPERPIXEL] = (32,), 1
            # Of the layouts with 32 bits, Pillow knows these.
            tags[SAMPLEFORMAT] = UNSIGNED if tags.prefix == TiffImagePlugin.II else SIGNED
            if EXTRASAMPLES in tags:
                del tags[EXTRASAMPLES]
        try:
            super()._setup()
        except (KeyError, SyntaxError) as error:
            if isinstance(error, KeyError) or "pixel mode" in str(error):
                raise Rejected("unsupported image", _describe(stated)) from None
            raise
        for tag, value in stated.items():
            tags[tag] = value
        if self.has_alpha:
            # The bytes in memory are those of the file, or as libtiff returns them, in the machine's order.
            self.tile = [tile._replace(args=("I;32N", *(tile.args or ())[1:])) for tile in self.tile]

    @property
    def is_transparent(self) -> bool:
        """Whether the second sample is an alpha channel."""
        return self.extra_samples in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the grey levels and the alpha channel, uint16 [H, W] each. Only if `has_alpha`."""
        is_big = self.tag_v2.prefix == TiffImagePlugin.MM if not self.use_load_libtiff else sys.byteorder == "big"
        pairs = np.asarray(self).view(">u2" if is_big else "<u2").reshape(self.height, self.width, 2)
        grey_HW, alpha_HW = pairs[:, :, 0], pairs[:, :, 1]
        if self.extra_samples == ASSOCIATED_ALPHA:
            white_level = 65535 * grey_HW.astype(np.float64)
            grey_HW = np.minimum(white_level / np.maximum(alpha_HW, 1), 65535).astype(np.uint16)
        return grey_HW, alpha_HW


def _describe(tags: dict[int, object]) -> str:
    values = [f"{TiffTags.lookup(tag).name} {value}" for tag, value in tags.items()]
    return f"a TIFF in a layout that Pillow cannot decode ({', '.join(values)})"


def open_grey(file: IO[bytes]) -> GreyTiff:
    """Read the header of a TIFF that Pillow's own class refuses.

    Raises:
        Rejected: Pillow cannot decode this layout.
        Exception: The file is damaged.
    """
    file.seek(0)
    return GreyTiff(file)
