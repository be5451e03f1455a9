"""The images of a request: bodies and forms of all kinds of software."""

import base64
import gzip
import time

import pytest

from raycrnn.serving import forms
from tests.conftest import draw
from tests.model.test_recognizer import recognizer
from tests.serving.samples import assert_refused, png


def many_pages() -> bytes:
    pages = [draw("ab").convert("1")] * 300
    return png(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="group4")


def test_the_first_of_many_pages_is_read(client):
    answer = client.post("/predict", content=many_pages())
    assert answer.status_code == 200
    assert answer.json()["text"] == recognizer(num_beam_paths=1)([many_pages()])[0].text


BASE64 = base64.b64encode(png(draw("abc")))
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("request_", "status", "texts"),
    [
        (
            {"content": gzip.compress(png(draw("a")), mtime=0), "headers": {"content-encoding": "gzip"}},
            415,
            ["gzip: send", "with"],
        ),
        ({"content": b"x", "headers": {"content-encoding": "br"}}, 415, ["unsupported content encoding: br"]),
        ({"content": gzip.compress(png(draw("a")), mtime=0)}, 422, ["compressed with gzip: decompress it"]),
        ({"json": {"image": BASE64.decode()}}, 415, ["application/json: base64", "send the bytes"]),
        ({"content": BASE64, "headers": {"content-type": "text/plain"}}, 415, ["text/plain: base64", "send the bytes"]),
        ({"content": b'{"image": "' + BASE64 + b'"}'}, 422, ["JSON text"]),
        ({"content": BASE64}, 422, ["text in base64: decode it"]),
        ({"content": b"data:image/png;base64," + BASE64}, 422, ["data URL", "decode it"]),
        ({"content": BASE64, "headers": FORM}, 422, ["text in base64: decode it"]),
        ({"data": {"image": BASE64.decode()}}, 415, ["the body is a form", "send the bytes"]),
        ({"content": b"image=" + BASE64, "headers": FORM}, 415, ["the body is a form", "send the bytes"]),
        ({"content": b"image=data:image/png;base64," + BASE64, "headers": FORM}, 415, ["the body is a form"]),
        ({"content": png(draw("a")).replace(b"\n", b"").replace(b"\r", b""), "headers": FORM}, 422, ["--data-binary"]),
        ({"files": {"image": (None, BASE64)}}, 422, ["no file", "the part 'image'", "text in base64"]),
        (
            {"content": b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nc\r\n--x--'},
            415,
            ["the body is multipart/form-data"],
        ),
        (
            {
                "content": b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nc',
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            422,
            ["malformed", "no closing boundary"],
        ),
        ({"content": b"{}", "headers": {"content-type": "application/problem+json"}}, 415, ["base64 and data URLs"]),
        ({"content": b"[object File]"}, 422, ["the text form of an object in a program ('[object File]')"]),
        ({"content": b"line.png", "headers": FORM}, 422, ["the name of a file ('line.png')", "--data-binary @"]),
        ({"content": b"https://example.org/a.png"}, 422, ["a URL"]),
        ({"content": b"%PDF-1.7\n"}, 422, ["a PDF document"]),
    ],
)
def test_requests_that_were_changed_on_the_way_are_refused_with_the_cause(client, request_, status, texts):
    assert_refused(client.post("/predict", **request_), status, *texts)


def test_a_refused_encoding_is_answered_with_the_accepted_one(client):
    answer = client.post("/predict", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.headers["accept-encoding"] == "identity"
    whole = client.post("/predict", content=png(draw("abba")), headers={"content-encoding": "identity", **FORM})
    assert whole.status_code == 200


@pytest.mark.parametrize("content_type", ["", "binary/octet-stream", "IMAGE/PNG"])
def test_the_bytes_of_an_image_are_read_with_content_types_of_other_software(client, content_type):
    answer = client.post("/predict", content=png(draw("abba")), headers={"content-type": content_type})
    assert answer.status_code == 200


def test_a_part_in_base64_is_named_beside_images_that_are_read(client):
    parts = [("image", ("a.png", png(draw("ab")))), ("image", ("b.png", BASE64))]
    read, refused = client.post("/predict", files=parts).json()["predictions"]
    assert "text" in read
    assert "base64" in refused["detail"]


def multipart(filename: bytes, rest: bytes = b"") -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="%s"\r\n\r\n' % filename
    return head + png(draw("ab")) + b"\r\n" + rest + b"--x--\r\n"


@pytest.mark.parametrize(("codec", "name"), [("unicode_escape", rb"\ud800.png"), ("utf-7", b"+2AA-.png")])
def test_a_request_cannot_choose_the_codec_of_its_file_names(client, codec, name):
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={codec}"}
    answer = client.post("/predict", content=multipart(name), headers=kind)
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["name"] == name.decode()


def test_a_text_field_is_not_decoded_with_a_slow_codec(client):
    text = b'--x\r\nContent-Disposition: form-data; name="t"\r\n\r\n' + b"a-" + b"b" * 150_000 + b"\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x; charset=punycode"}
    start = time.process_time()
    answer = client.post("/predict", content=multipart(b"x.png", text), headers=kind)
    assert answer.status_code == 200
    assert time.process_time() - start < 1


def test_lone_surrogates_in_a_file_name_are_escaped():
    assert forms._escape_surrogates("a\ud800.png") == r"a\ud800.png"
    assert forms._escape_surrogates("é.png") == "é.png"


@pytest.mark.parametrize("boundary", ["", '""', "; boundary=" + "x" * 71, r'"x\"; charset=\"utf-7"'])
def test_an_invalid_boundary_is_refused(client, boundary):
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    answer = client.post("/predict", content=multipart(b"x.png"), headers=kind)
    assert_refused(answer, 422, "malformed", "let the HTTP client set it")
