"""Tell what a file is that raycrnn cannot read as an image, and what to do about it."""

import re
import string

from raycrnn.data.rejections import Rejected

HEAD_BYTES = 4096
"""Bytes from the start of a file that `describe` needs."""

CONVERT = "convert it to PNG, JPEG or TIFF"
AS_TEXT = "it was transferred or saved as text: copy it again as a binary file (with curl: --data-binary instead of -d)"
DOWNLOAD = "download the image itself"
BASE64 = "decode it, and save or send the bytes of the image"
DECOMPRESS = "decompress it"
EXTRACT = "save the images in it as files"
LFS, ANNEX = "run `git lfs pull`", "run `git annex get`"

OTHER_FORMATS = (
    (0, b"8BPS", "a Photoshop document (PSD)"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"gimp xcf", "a GIMP image (XCF)"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"II\xbc", "a JPEG XR image"),
    (0, b"\x97JB2\r\n\x1a\n", "a JBIG2 image"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"DDS ", "a DirectDraw surface (DDS)"),
    (0, b"SIMPLE  =", "a FITS image"),
    (128, b"DICM", "a DICOM image"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"icns", "a macOS icon"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (40, b" EMF", "a Windows metafile (EMF)"),
    (0, b"FUJIFILMCCD-RAW", "a raw photo (Fujifilm RAF)"),
    (0, b"IIU\0", "a raw photo (Panasonic RW2)"),
    (0, b"IIRO", "a raw photo (Olympus ORF)"),
    (0, b"IIRS", "a raw photo (Olympus ORF)"),
    (0, b"MMOR", "a raw photo (Olympus ORF)"),
    (0, b"FOVb", "a raw photo (Sigma X3F)"),
    (0, b"\0MRM", "a raw photo (Minolta MRW)"),
    (6, b"HEAPCCDR", "a raw photo (Canon CRW)"),
)
"""Pictures in formats that raycrnn does not read: offset, signature and description."""

BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC image (HEIF)"),
    b"crx ": "a raw photo (Canon CR3)",
}
"""Pictures in a container of the ISO base media file format, by its brand (ISO/IEC 14496-12, section 4.3)."""

OTHER_FILES = (
    (0, b"%PDF-", "a PDF document", "export its pages as images and cut the lines out of them"),
    (0, b"%!PS", "a PostScript document", CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document", CONVERT),
    (0, b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS, without the file itself", LFS),
    (0, b"/annex/objects/", "a pointer of git-annex, without the file itself", ANNEX),
    (0, b"PK\x03\x04", "a ZIP archive, or a document that is one (DOCX, XLSX, ODT, EPUB)", "unpack it"),
    (0, b"\x1f\x8b", "data compressed with gzip", DECOMPRESS),
    (0, b"BZh", "data compressed with bzip2", DECOMPRESS),
    (0, b"\xfd7zXZ\0", "data compressed with xz", DECOMPRESS),
    (0, b"\x28\xb5\x2f\xfd", "data compressed with Zstandard", DECOMPRESS),
    (0, b"x\x01", "data compressed with zlib", DECOMPRESS),
    (0, b"x\x9c", "data compressed with zlib", DECOMPRESS),
    (0, b"x\xda", "data compressed with zlib", DECOMPRESS),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it"),
    (257, b"ustar", "a tar archive", "unpack it"),
    (
        0,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "an Office document, or Thumbs.db of Windows",
        "remove it from the images",
    ),
    (0, b"\0\x05\x16\x07", "metadata that macOS stores beside a file", "remove it from the images"),
    (0, b"\0\x05\x16\0", "metadata that macOS stores beside a file", "remove it from the images"),
    (0, b"bplist00", "a property list of macOS, perhaps of a file in iCloud", DOWNLOAD),
    (0, b"L\0\0\0\x01\x14\x02\0", "a Windows shortcut", "use the file that it refers to"),
    (0, b"{\\rtf", "an RTF document", "use a picture"),
    (0, b"MZ", "a Windows program", "remove it from the images"),
    (0, b"PAR1", "a Parquet file", EXTRACT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", EXTRACT),
    (0, b"SQLite format 3\0", "a SQLite database", EXTRACT),
    (0, b"\x93NUMPY", "a NumPy array", "save it as an image"),
    (4, b"ftyp", "a video or audio file", "use a picture"),
    (0, b"\x1a\x45\xdf\xa3", "a video file (Matroska)", "use a picture"),
    (8, b"AVI ", "a video file (AVI)", "use a picture"),
)
"""Files that are not pictures: offset, signature, description and what to do."""

IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a")
"""Signatures of formats that raycrnn reads, which no text file begins with."""

MANGLED = (
    (b"\x89PNG\x1a", "a PNG without its line ends"),
    (b"\x89PNG\n\x1a\n", "a PNG whose line ends were converted"),
    (b"\x89PNG\r\r\n\x1a\r\n", "a PNG whose line ends were converted"),
    (b"\x89PNG\r\n\x1a\r\n", "a PNG whose line ends were converted"),
    (b"\x09PNG\r\n\x1a\n", "a PNG whose bytes have lost a bit"),
    (b"\xc2\x89PNG", "a PNG that was encoded as UTF-8"),
    (b"\xef\xbf\xbdPNG", "a PNG that was decoded as UTF-8"),
    (b"\xff\xd8\xff\xe0\x10JFIF", "a JPEG without its zero bytes"),
    (b"\xff\xd8\xff\xe1Exif", "a JPEG without its zero bytes"),
    (b"\xc3\xbf\xc3\x98\xc3\xbf", "a JPEG that was encoded as UTF-8"),
    (b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "an image that was decoded as UTF-8"),
    (b"b'\\x", "Python's text form of bytes"),
    (b'b"\\x', "Python's text form of bytes"),
)
"""Signatures of images that were changed on their way: signature and description."""

BASE64_STARTS = (b"iVBORw0KGgo", b"/9j/", b"SUkqA", b"TU0AK", b"R0lGOD", b"UklGR", b"Qk0", b"AAAADGpQICAN")
"""The signatures of the image formats, encoded in base64."""

HEXADECIMAL = re.compile(rb"(?:0x|\\x)?[0-9A-Fa-f\s]{40,}")

BASE64_TEXT = re.compile(rb"[A-Za-z0-9+/_\s-]{40,}=*\s*")

OBJECT = re.compile(rb"\[object \w+\]|<[\w.]+[ :].*(?: at 0x[0-9A-Fa-f]+|'[^'>]*'.*)>|undefined|null|None")
"""The text that JavaScript and Python make of an object."""

FILE_NAME = re.compile(rb"[^\r\n]{1,1000}\.(?:png|jpe?g|tiff?|webp|bmp|gif|jp2|p[bgpn]m)", re.IGNORECASE)

URL = re.compile(rb"(?:https?|s3|gs|ftp|file)://\S+\s*", re.IGNORECASE)

FORM_FIELD = re.compile(rb"[\w.\[\]-]{1,100}=")

TEXT_BYTES = frozenset(string.printable.encode("ascii")) | frozenset(range(0x80, 0x100))


def describe(head: bytes, size: int) -> Rejected:
    """Return the rejection of a file that is not in a format that raycrnn reads.

    Args:
        head: The first `HEAD_BYTES` of the file.
        size: Size of the file in bytes.
    """
    if not size:
        return Rejected("not an image", "an empty file: copy or export the image again")
    brand = BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    picture = brand or next((what for at, start, what in OTHER_FORMATS if head.startswith(start, at)), None)
    if picture:
        return Rejected("unsupported image", f"{picture}: {CONVERT}")
    for at, start, what, remedy in OTHER_FILES:
        if head.startswith(start, at):
            return Rejected("not an image", f"{what}: {remedy}")
    if mangled := mangling(head):
        return Rejected("damaged image", mangled)
    if not head.strip(b"\0"):
        return Rejected("not an image", f"{size:,} bytes that begin with zeros: it was not copied completely; copy it")
    return Rejected("not an image", _describe_text(head, size) or f"{size:,} bytes in no known image format")


def describe_document(head: bytes, remedy: str) -> str | None:
    """Return what a file is that should be a text file or the weights of a model, and what to do.

    Args:
        head: The first `HEAD_BYTES` of the file.
        remedy: What to do if the file is neither a pointer nor compressed.

    Returns:
        None if the file may be what it should be.
    """
    if head.startswith(IMAGES):
        return f"an image: {remedy}"
    if _is_web_page(_start_of_text(head)):
        return f"a web page (HTML), perhaps an error or a login page: {remedy}"
    for at, start, what, own_remedy in OTHER_FILES:
        # A text file, too, may begin with a short signature, such as the MZ of Windows programs.
        if at == 0 and head.startswith(start) and (len(start) > 4 or b"\0" in head):
            return f"{what}: {own_remedy if own_remedy in (DECOMPRESS, LFS, ANNEX) else remedy}"
    return None


def mangling(head: bytes) -> str | None:
    """Return what is wrong with an image that was changed on its way, and what to do; None if it was not."""
    for start, what in MANGLED:
        if head.startswith(start):
            return f"{what}: {AS_TEXT}"
    if (position := head.find(b"\x89PNG\r\n\x1a\n")) > 0:
        return f"a PNG after {position:,} other bytes: remove them, or copy or export the image again"
    return None


def is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are text in ASCII or an encoding that extends it."""
    return TEXT_BYTES.issuperset(head)


def _start_of_text(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()


def _is_web_page(text: bytes) -> bool:
    starts = (b"<!doctype html", b"<html", b"<head", b"<body")
    lower = text.lower()
    return lower.startswith(starts) or (lower.startswith(b"<") and b"<html" in lower)


def _shown(text: bytes) -> str:
    """Return a short text as messages show it."""
    return repr(text[:100].decode("utf-8", "backslashreplace").strip())


def _describe_text(head: bytes, size: int) -> str | None:
    """Return which kind of text a file is, and what to do; None if it is not text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"a text file in UTF-16 ({size:,} bytes)"
    if not is_text(head):
        return None
    text = _start_of_text(head)
    lower = text.lower()
    if _is_web_page(text):
        return f"a web page (HTML), perhaps an error or a login page that was saved as an image: {DOWNLOAD}"
    if b"<svg" in lower:
        return f"a vector drawing (SVG): {CONVERT}"
    if OBJECT.fullmatch(text.rstrip()):
        return f"the text form of an object in a program ({_shown(text)}): save or send the bytes of the image"
    if lower.startswith(b"<"):
        return f"an XML file, perhaps an error that was saved as an image: {DOWNLOAD}"
    if lower.startswith(b"data:"):
        return f"a data URL, which is text: {BASE64}"
    if HEXADECIMAL.fullmatch(text):
        return f"text in hexadecimal: {BASE64}"
    unquoted = text.strip().strip(b"'\"")
    if unquoted.startswith(BASE64_STARTS) or (BASE64_TEXT.fullmatch(unquoted) and b" " not in unquoted):
        return f"text in base64: {BASE64}"
    if text.startswith((b"{", b"[")):
        return "JSON text: use the bytes of the image alone"
    if URL.fullmatch(text):
        return f"a URL: {DOWNLOAD}"
    if FILE_NAME.fullmatch(text.rstrip()):
        return (
            f"the name of a file ({_shown(text)}) instead of its contents: use that file (with curl, @ stands before "
            "the name: --data-binary @line.png)"
        )
    if FORM_FIELD.match(text) and (b"base64" in lower or b"%" in text or len(text) > 200):
        return "a form field in text: use the bytes of the image alone"
    return f"a text file ({size:,} bytes)"
