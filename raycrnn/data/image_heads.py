"""Sizes of images in object storage, measured by the first bytes of their files."""

import io

from raycrnn.data import image, image_files
from raycrnn.data.rejections import Rejected

HEAD_BYTES = 32 * 2**10
"""Bytes that are read first. They contain the headers of most formats, and most lines of text as a whole."""


def measure(uri: str) -> tuple[int, int]:
    """Return the upright width and height in pixels of an image behind a URI.

    The whole file is read only if its head is not enough: WebP, a TIFF with its header at the end, much metadata.

    Raises:
        Rejected: The file cannot be read, or its header is not that of a usable image.
        StorageError: Object storage fails, which says nothing about the image.
    """
    head = _Head(*image_files.read_head(uri, HEAD_BYTES))
    try:
        size = image.size_of(head)
        if not head.is_exceeded:
            return size
    except (Rejected, _HeadExceeded):
        if not head.is_exceeded:
            raise
    return image.size_of(io.BytesIO(image_files.read_bytes(uri)))


class _HeadExceeded(Exception):
    """More than the first bytes of a file are needed. Not an `OSError`, on which Pillow would go on with a warning."""


class _Head(io.BytesIO):
    """The first bytes of a file, as a file that raises `_HeadExceeded` where a reader needs more of them."""

    def __init__(self, data: bytes, size: int):
        super().__init__(data)
        self._size, self._is_whole = size, len(data) == size
        self.is_exceeded = False
        """Whether a reader needed more. It may have caught the error."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not self._is_whole and (size is None or size < 0 or len(data) < size):
            self.is_exceeded = True
            raise _HeadExceeded
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            return super().seek(self._size + offset)
        return super().seek(offset, whence)
