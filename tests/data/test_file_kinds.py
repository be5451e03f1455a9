"""Files that are not images: each is named, with what to do."""

import base64
import gzip
import io
import zipfile
import zlib

import pytest
from PIL import Image

from raycrnn.data import file_kinds, image
from raycrnn.data.rejections import Rejected


def png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((60, 20), 50).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (60, 20)).save(buffer, "JPEG")
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", png())
    return buffer.getvalue()


NOT_AN_IMAGE = {
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
    "web page (HTML)": b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>Not found</body></html>",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "an XML file": b'<?xml version="1.0"?><PcGts/>',
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n",
    "git annex get": b"/annex/objects/SHA256E-s1--a.png\n",
    "ZIP archive": zipped(),
    "gzip": gzip.compress(png(), mtime=0),
    "an empty file": b"",
    "begin with zeros": bytes(5000),
    "a text file": b"path;label\nimage.png;text\n",
    "UTF-16": "path;label".encode("utf-16"),
    "base64": base64.b64encode(png()),
    "text in hexadecimal": png().hex().encode(),
    "zlib": zlib.compress(png()),
    "data URL": b"data:image/png;base64," + base64.b64encode(png()),
    "JSON": b'{"image": "iVBORw0KGgo="}',
    "a URL": b"https://example.org/a.png\n",
    "object in a program ('[object File]')": b"[object File]",
    "object in a program (\"<FileStorage: 'a.png' ('image/png')>\")": b"<FileStorage: 'a.png' ('image/png')>\n",
    "object in a program ('<PIL": b"<PIL.PngImagePlugin.PngImageFile image mode=L size=60x20 at 0x7F3A>",
    'object in a program ("<_io': b"<_io.BufferedReader name='a.png'>",
    "object in a program ('undefined')": b"undefined",
    "the name of a file ('../scans/a b.JPG')": b"../scans/a b.JPG\n",
    "a form field": b"image=iVBORw0KGgo%3D",
    "macOS stores beside": b"\0\5\x16\7\0\2\0\0Mac OS X        ",
    "a Windows shortcut": b"L\0\0\0\1\x14\2\0\0\0\0\0",
    "an RTF document": b"{\\rtf1\\ansi",
    "a Parquet file": b"PAR1\x15\4",
    "perhaps an error": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "NumPy": b"\x93NUMPY\1\0v\0{'descr': '<f4'}",
    "video": b"\0\0\0\x18ftypisom\0\0\2\0",
    "2,000 bytes in no known image format": b"\x01\x02\xff" + bytes(1997),
}

UNSUPPORTED = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "HEIC image (HEIF)": b"\0\0\0\x18ftypmif1\0\0\0\0",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0",
    "Canon CR3": b"\0\0\0\x18ftypcrx \0\0\0\1",
    "Photoshop": b"8BPS\0\1",
    "DjVu": b"AT&TFORM\0\0\0\0DJVM",
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "Fujifilm": b"FUJIFILMCCD-RAW 0201",
    "DICOM": bytes(128) + b"DICM",
}

DAMAGED = {
    "without its line ends": png().replace(b"\r", b"").replace(b"\n", b""),
    "line ends were converted": png().replace(b"\r\n", b"\n"),
    "converted: it was": png().replace(b"\n", b"\r\n"),
    "was encoded as UTF-8": png().decode("latin-1").encode("utf-8"),
    "a JPEG that was encoded": jpeg().decode("latin-1").encode("utf-8"),
    "was decoded as UTF-8": png().decode("utf-8", "replace").encode(),
    "an image that was decoded": jpeg().decode("utf-8", "replace").encode(),
    "without its zero bytes": jpeg().replace(b"\0", b""),
    "a PNG after 2 other bytes": b"\r\n" + png(),
    "text form of bytes": repr(png()).encode(),
}

KINDS = [
    *(("not an image", text, data) for text, data in NOT_AN_IMAGE.items()),
    *(("unsupported image", text, data) for text, data in UNSUPPORTED.items()),
    *(("damaged image", text, data) for text, data in DAMAGED.items()),
]


@pytest.mark.parametrize(("reason", "text", "data"), KINDS, ids=[text for _, text, _ in KINDS])
def test_a_file_that_is_no_image_is_named(tmp_path, reason, text, data):
    with pytest.raises(Rejected) as decoding:
        image.decode(data)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(Rejected) as measuring:
        image.measure(str(tmp_path / "a.png"))
    for caught in (decoding, measuring):
        assert caught.value.reason == reason
        assert text in caught.value.detail


@pytest.mark.parametrize(("start", "ending"), [("", "\n"), ("", "\n" * 60), ('"', '"')])
def test_base64_in_lines_or_quotes_is_named(start, ending):
    with pytest.raises(Rejected) as caught:
        image.decode(start.encode() + base64.encodebytes(bytes(range(256))) + ending.encode())
    assert "base64" in caught.value.detail


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"a.png;text\nb.png;<html>\n", None),
        (b"ustar/a.png;text\nftypography/b.png;x\n" * 20, None),
        (b"\xef\xbb\xbfa.png;text\n", None),
        (b"MZ_001.png;text\nBZh_001.png;text\n", None),
        (b"PAR1.png;text\n", None),
        (b"", None),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n",
            "the file itself: run `git lfs pull`",
        ),
        (gzip.compress(b"a.png;text\n", mtime=0), "data compressed with gzip: decompress it"),
        (zipped(), "XLSX, ODT, EPUB): save it as CSV"),
        (b"%PDF-1.7\n", "a PDF document: save it as CSV"),
        (b"\n<!DOCTYPE html><html>Sign in", "a login page: save it as CSV"),
        (png(), "an image: save it as CSV"),
    ],
)
def test_a_document_instead_of_a_table_is_named(head, expected):
    found = file_kinds.describe_document(head, "save it as CSV")
    assert found == expected if expected is None else found.endswith(expected)
