"""Metadata of image files: a whole picture is read beside any of it, and its orientation counts."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from raycrnn.data import image
from raycrnn.data.rejections import Rejected

COLOURS_HWC = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
MEGABYTES = 2**20
BOMB = zlib.compress(bytes(200 * MEGABYTES), 9)


def encoded(file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOURS_HWC).save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(added: bytes, at_the_end: bool) -> bytes:
    data = encoded("PNG")
    position = len(data) - 12 if at_the_end else 33
    return data[:position] + added + data[position:]


CHUNKS = {
    "large compressed text": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "large XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "large uncompressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 2 * MEGABYTES),
    "XMP that ends early": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0"),
    "large text": chunk(b"tEXt", b"Comment\0" + b"x" * 70 * MEGABYTES),
    "large ICC profile": chunk(b"iCCP", b"profile\0\0" + BOMB),
    "ICC profile with an unknown compression": chunk(b"iCCP", b"profile\0\5abc"),
    "empty ICC profile": chunk(b"iCCP", b""),
    "text named like Pillow's own values": chunk(b"tEXt", b"transparency\0abc"),
    "text named like Pillow's interlacing": chunk(b"tEXt", b"interlace\0abc"),
    "short gamma": chunk(b"gAMA", b"a"),
    "short resolution": chunk(b"pHYs", b"a"),
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0a")[:-1] + b"?",
    "frames of an animation": chunk(b"fcTL", b"x" * 26),
    "short header of an animation": chunk(b"acTL", b"x"),
}


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_is_decoded_and_measured_beside_any_metadata(tmp_path, name, at_the_end):
    data = with_chunk(CHUNKS[name], at_the_end)
    assert np.array_equal(image.decode(data, 3), COLOURS_HWC)
    (tmp_path / "a.png").write_bytes(data)
    assert image.measure(str(tmp_path / "a.png")) == (40, 20)


@pytest.mark.parametrize("name", ["large compressed text", "large XMP", "large ICC profile"])
def test_metadata_of_a_small_png_takes_little_memory(name):
    data = with_chunk(CHUNKS[name], at_the_end=False)
    tracemalloc.start()
    try:
        image.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 8 * MEGABYTES
    finally:
        tracemalloc.stop()


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("key", ["XML:com.adobe.xmp", "Raw profile type exif"])
def test_the_orientation_in_the_metadata_of_a_png_counts(tmp_path, key, compressed):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Software", "a scanner " * MEGABYTES, zip=True)
    if key == "XML:com.adobe.xmp":
        info.add_itxt(key, XMP.decode(), zip=compressed)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        profile = exif.tobytes()
        info.add_text(key, f"\nexif\n{len(profile):8}\n{profile.hex()}\n", zip=compressed)
    data = encoded("PNG", pnginfo=info)
    assert np.array_equal(image.decode(data, 3), np.rot90(COLOURS_HWC, -1))
    (tmp_path / "turned.png").write_bytes(data)
    assert image.measure(str(tmp_path / "turned.png")) == (20, 40)


@pytest.mark.parametrize("tag", [None, 1, 6])
def test_the_orientation_in_the_xmp_data_of_a_tiff_counts_without_a_tag_of_its_own(tmp_path, tag):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[700] = XMP
    if tag is not None:
        directory[0x0112] = tag
    data = encoded("TIFF", tiffinfo=directory)
    size = image.decode(data, 3).size
    assert size == ((40, 20) if tag == 1 else (20, 40))
    (tmp_path / "turned.tif").write_bytes(data)
    assert image.measure(str(tmp_path / "turned.tif")) == size


def test_transparency_gamma_and_palette_of_a_png_beside_metadata_are_kept():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 0, 0, 0])
    picture.putdata([0, 1])
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 2 * MEGABYTES, zip=True)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=1, pnginfo=info, gamma=0.45)
    assert np.asarray(image.decode(buffer.getvalue(), 3))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_the_default_image_of_an_animated_png_is_decoded():
    other = Image.new("RGB", (40, 20), "red")
    data = encoded("PNG", save_all=True, append_images=[other, other])
    assert b"acTL" in data
    assert np.array_equal(image.decode(data, 3), COLOURS_HWC)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


SEGMENTS = {
    "large ICC profile": b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 200]) + bytes(60_000)) for number in range(1, 201)
    ),
    "ICC profile that ends early": segment(0xE2, b"ICC_PROFILE\0"),
    "corrupt Photoshop data": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\x50"),
    "short JFIF header": segment(0xE0, b"JFIF\0"),
    "short Adobe header": segment(0xEE, b"Adobe"),
    "long comments": segment(0xFE, bytes(65_000)) * 100,
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_jpeg_is_decoded_and_measured_beside_any_metadata(tmp_path, name):
    plain = encoded("JPEG")
    data = plain[:2] + SEGMENTS[name] + plain[2:]
    assert np.array_equal(image.decode(data, 3), image.decode(plain, 3))
    (tmp_path / "a.jpg").write_bytes(data)
    assert image.measure(str(tmp_path / "a.jpg")) == (40, 20)


def test_the_colour_space_of_a_cmyk_jpeg_beside_metadata_is_kept():
    buffer = io.BytesIO()
    Image.fromarray(COLOURS_HWC).convert("CMYK").save(buffer, "JPEG", quality=95)
    plain = buffer.getvalue()
    data = plain[:2] + SEGMENTS["long comments"] + plain[2:]
    assert np.array_equal(image.decode(data, 3), image.decode(plain, 3))


@pytest.mark.parametrize(("tag", "value"), [(50706, b"\1\4\0\0"), (33421, b"\2\0\2\0")])
def test_a_raw_photo_is_not_read_as_its_thumbnail(tag, value):
    tags = Image.Exif()
    tags[tag] = value
    with pytest.raises(Rejected) as caught:
        image.decode(encoded("TIFF", exif=tags))
    assert caught.value.reason == "unsupported image"
    assert "raw photo" in caught.value.detail
