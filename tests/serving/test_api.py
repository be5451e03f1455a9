"""The HTTP API without Ray: responses, refusals, and the page in a real browser."""

import asyncio
import base64
import csv
import gzip
import io
import json
import math
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer
from raycrnn.serving import forms
from raycrnn.serving.api import make_app
from raycrnn.serving.limits import BodyLimiter
from raycrnn.serving.proxy_middleware import ProxyMiddleware
from raycrnn.serving.service import Service
from raycrnn.serving.settings import Limits
from tests.browser import browser
from tests.conftest import draw, words
from tests.model.test_recognizer import ALPHABET, recognizer


def png(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@contextmanager
def serving(service: Service):
    """A client of a service that listens on a real socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(service), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("service") / "model"
    recognizer(num_beam_paths=1).save(path)
    return path


@pytest.fixture(scope="module")
def client(model):
    limits = Limits(max_body_mb=0.2, max_pixels=200_000, max_images=4, body_seconds=1)
    with serving(Service(str(model), limits=limits)) as http_client:
        yield http_client


def assert_refused(response: httpx.Response, status: int, *texts: str) -> None:
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer.keys() == {"error", "detail"} or answer.keys() == {"error", "detail", "name"}
    for text in texts:
        assert text in f"{answer['error']}: {answer['detail']}"


def test_an_image_is_read_as_by_the_recognizer(client):
    expected = recognizer(num_beam_paths=1)(draw("abba"), n_best=3)[0].to_json()
    answer = client.post("/predict?n_best=3&spans=true", content=png(draw("abba"))).json()
    assert answer["text"] == expected["text"]
    assert [each["text"] for each in answer["alternatives"]] == [each["text"] for each in expected["alternatives"]]
    edges = ("text", "left", "top", "right", "bottom")
    assert [[unit[edge] for edge in edges] for unit in answer["units"]] == [
        [unit[edge] for edge in edges] for unit in expected["units"]
    ]
    assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-3)
    bare = client.post("/predict", content=png(draw("abba"))).json()
    assert bare["alternatives"] == []
    assert "units" not in bare


def test_several_images_are_answered_in_order_and_a_bad_one_does_not_affect_the_others(client):
    drawn = [draw(text) for text in words(3)]
    parts = [("image", (f"{n}.png", png(image))) for n, image in enumerate(drawn)]
    parts.insert(1, ("image", ("bad.png", b"not an image")))
    answers = client.post("/predict", files=parts).json()["predictions"]
    assert [answer["name"] for answer in answers] == ["0.png", "bad.png", "1.png", "2.png"]
    assert answers[1]["error"] == "not an image"
    expected = [each.text for each in recognizer(num_beam_paths=1)(drawn)]
    assert [answers[n]["text"] for n in (0, 2, 3)] == expected


def many_pages() -> bytes:
    pages = [draw("ab").convert("1")] * 300
    return png(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="group4")


def test_the_first_of_many_pages_is_read(client):
    answer = client.post("/predict", content=many_pages())
    assert answer.status_code == 200
    assert answer.json()["text"] == recognizer(num_beam_paths=1)([many_pages()])[0].text


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"content": b""}, 422, "empty body"),
        ({"content": b"text"}, 422, "not an image"),
        ({"content": png(draw("abc"))[:60]}, 422, "damaged image"),
        ({"content": b"x" * 210_000}, 413, "0.2 MB (max_body_mb)"),
        ({"content": (b"x" * 70_000 for _ in range(3))}, 413, "max_body_mb"),
        ({"content": png(Image.new("1", (1000, 1000)))}, 422, "more than 200,000"),
        ({"content": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, 422, "not an image"),
        ({"content": b"<svg/>", "headers": {"content-type": "image/svg+xml"}}, 415, "image/svg+xml"),
        ({"json": {"path": "/etc/passwd"}}, 415, "application/json"),
        ({"files": [("a", ("x.png", b"x"))] * 5}, 422, "at most 4 images (max_images)"),
        ({"files": [("a", ("x.png", b"x"))] * 50}, 422, "max_images"),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=zz"}}, 422, "malformed"),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data"}}, 422, "malformed"),
        ({"data": {"a": "b"}, "files": {"c": (None, "d")}}, 422, "no image"),
    ],
)
def test_bodies_that_are_not_images_or_exceed_a_limit_are_refused_with_the_reason(client, request_, status, text):
    assert_refused(client.post("/predict", **request_), status, text)


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


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("/predict?n_best=0", "n_best"),
        ("/predict?n_best=11", "at most 10"),
        ("/predict?n_best=x", "n_best"),
        ("/predict?spans=perhaps", "spans"),
        ("/predict?path=/etc/passwd", "'path': the parameters are n_best, spans"),
    ],
)
def test_invalid_parameters_are_named(client, url, text):
    assert_refused(client.post(url, content=png(draw("a"))), 422, text)


def test_unknown_paths_and_methods_are_refused_as_json(client):
    assert_refused(client.get("/nowhere"), 404, "not found")
    wrong = client.get("/predict")
    assert_refused(wrong, 405, "method not allowed")
    assert wrong.headers["Allow"] == "POST"


def test_health_answers_head_requests(client):
    answer = client.head("/health")
    assert (answer.status_code, answer.content) == (200, b"")


def test_an_incomplete_body_times_out_while_others_are_answered(client):
    with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
        assert client.post("/predict", content=png(draw("abba"))).status_code == 200
        slow.settimeout(20)
        assert b"408" in slow.recv(100)


def test_clients_that_disconnect_leave_nothing_behind(client):
    for _ in range(20):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
            gone.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
    assert client.post("/predict", content=png(draw("abba"))).status_code == 200
    assert client.get("/health").json()["waiting"] == 0


def test_model_health_and_openapi_describe_the_service(client):
    described_model = client.get("/model").json()
    assert described_model["alphabet"] == list(ALPHABET.units)
    assert described_model["scores"] == {"cer": 0.5}
    assert described_model["limits"]["max_images"] == 4
    health = client.get("/health").json()
    assert (health["status"], health["model"]) == ("ok", described_model["version"])
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/predict", "/health", "/model"}
    page = client.get("/docs").text
    assert "http" not in page.replace("/static-offline-docs", "").split("<script")[1].split(">")[0]


def test_cross_site_requests_are_refused(client):
    answer = client.post("/predict", content=png(draw("a")), headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    for site, status in (("cross-site", 403), ("same-site", 200), ("same-origin", 200), ("none", 200)):
        answer = client.post("/predict", content=png(draw("a")), headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
        if status == 403:
            assert_refused(answer, 403, "cross-site")
    # A link from there to the page is fine.
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_the_pages_security_policy_forbids_frames_and_foreign_forms(client):
    policy = client.get("/").headers["Content-Security-Policy"]
    for rule in ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert rule in policy


def test_requests_without_the_token_are_refused(model):
    with serving(Service(str(model), token="sesame")) as client:
        for headers in (
            {},
            {"Authorization": "Bearer other"},
            {"Authorization": "sesame"},
            {"Authorization": "Bearer é"},
        ):
            encoded = {name: value.encode() for name, value in headers.items()}
            answer = client.post("/predict?n_best=x", content=png(draw("a")), headers=encoded)
            assert_refused(answer, 401, "token")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/model").status_code == 401
        for right in ("Bearer sesame", "bearer sesame", "BEARER  sesame"):
            headers = {"Authorization": right}
            assert client.post("/predict", content=png(draw("a")), headers=headers).status_code == 200
        headers["Sec-Fetch-Site"] = "cross-site"
        assert client.post("/predict", content=png(draw("a")), headers=headers).status_code == 200
        assert client.get("/health").status_code == client.get("/").status_code == 200


def test_a_full_queue_refuses_at_once_with_retry_after(model):
    service = Service(str(model), limits=Limits(max_waiting=2))
    with serving(service) as client:
        answers = []
        with gated(service.model.recognizer):
            threads = [post_in_thread(client, answers, content=png(draw("ab"))) for _ in range(2)]
            wait_until(lambda: queued(service) == 2)
            busy = client.post("/predict", content=png(draw("ab")))
            assert_refused(busy, 503, "max_waiting")
            assert int(busy.headers["Retry-After"]) >= 1
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [200, 200]


def post_in_thread(client: httpx.Client, answers: list, **request) -> threading.Thread:
    """Post a request in a thread that appends the response to a list."""

    def ask():
        answers.append(httpx.post(f"{client.base_url}/predict", timeout=30, **request))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@contextmanager
def gated(reader):
    """Make a recognizer's `transcribe` wait for an event, which is set at the latest when the context is left."""
    gate, real = threading.Event(), reader.transcribe
    reader.transcribe = lambda *given, **named: gate.wait(20) and real(*given, **named)
    try:
        yield gate
    finally:
        gate.set()


def queued(service: Service) -> int:
    """Return how many lines are in the queue or being read, or fewer while the service's thread moves one.

    `waiting` could count a line twice here: while this thread adds the parts up, a line leaves its reservation.
    """
    return len(service.model.batcher._being_read) + len(service.model.batcher._queue)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bodies_count_towards_the_limit_until_their_requests_are_answered(model):
    image, answers = png(draw("a")), []
    service = Service(str(model), limits=Limits(max_upload_mb=1.5 * len(image) / 1e6, max_body_mb=len(image) / 1e6))
    with serving(service) as client:
        with gated(service.model.recognizer):
            thread = post_in_thread(client, answers, content=image)
            wait_until(lambda: service.model.batcher.waiting)
            assert service.body_limiter.held_bytes == len(image)
            assert_refused(client.post("/predict", content=image), 503, "max_upload_mb")
        thread.join(20)
        assert [answer.status_code for answer in answers] == [200]
        assert service.body_limiter.held_bytes == 0
        assert client.post("/predict", content=image).status_code == 200


def test_images_that_wait_to_be_decoded_count_towards_the_queue(model):
    service, answers, gate = Service(str(model), limits=Limits(max_waiting=4)), [], threading.Event()
    with serving(service) as client:
        recognizer_ = service.model.recognizer
        real = recognizer_.prepare
        recognizer_.prepare = lambda *given, **named: gate.wait(20) and real(*given, **named)
        parts = [("image", ("x.png", png(draw("ab"))))]
        thread = post_in_thread(client, answers, files=[*parts * 3, ("image", ("bad.png", b"not an image"))])
        wait_until(lambda: service.model.batcher.waiting == 4)
        busy = client.post("/predict", content=png(draw("ab")))
        assert_refused(busy, 503, "4 images are waiting (max_waiting=4)")
        assert int(busy.headers["Retry-After"]) >= 1
        # Rounded to hundredths of a second.
        wait_until(lambda: client.get("/health").json()["longest_wait_seconds"] > 0)
        gate.set()
        thread.join(20)
        assert answers[0].status_code == 200
        assert service.model.batcher.waiting == 0
        assert client.get("/health").json()["longest_wait_seconds"] == 0
        assert client.post("/predict", content=png(draw("ab"))).status_code == 200


def test_a_large_request_does_not_block_a_small_one(model):
    service, answers, started = Service(str(model)), [], threading.Event()
    with serving(service) as client:
        recognizer_ = service.model.recognizer
        real, order = recognizer_.prepare, []

        def slowly(data, *given):
            order.append(data)
            started.set()
            time.sleep(0.05)
            return real(data, *given)

        recognizer_.prepare = slowly
        many, one = png(draw("ab")), png(draw("ba"))
        thread = post_in_thread(client, answers, files=[("image", ("x.png", many))] * 30)
        assert started.wait(20)
        assert client.post("/predict", content=one).status_code == 200
        assert order.index(one) < 20
        thread.join(20)
        assert order.count(many) == 30


def test_more_images_than_the_queue_can_hold_are_refused_with_422(model):
    with serving(Service(str(model), limits=Limits(max_waiting=2))) as client:
        parts = [("image", ("x.png", png(draw("a"))))] * 3
        assert_refused(client.post("/predict", files=parts), 422, "at most 2 images (max_images)")


def test_a_body_that_passed_the_middleware_is_checked_against_the_services_limit(model):
    for body, status in ((b"x" * 2000, 413), (png(draw("a")), 200)):
        service = Service(str(model), limits=Limits(max_body_mb=0.001))
        assert post(service, {"content": body}, middleware=True).status_code == status


def post(service: Service, request: dict, middleware: bool = False) -> httpx.Response:
    """Post a request to a service without a socket, so that its exceptions are raised here."""

    async def ask():
        await service.start()
        app = make_app(service)
        app = ProxyMiddleware(app, BodyLimiter()) if middleware else app
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            answer = await client.post("/predict", **request)
        await service.stop()
        return answer

    return asyncio.run(ask())


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


def cpu_out_of_memory(*_, **__):
    torch.empty(10**15)


def cuda_out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def broken(*_, **__):
    raise KeyError("unexpected")


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (cpu_out_of_memory, 503, "not enough memory"),
        (cuda_out_of_memory, 503, "not enough memory"),
        (broken, 500, "internal error: KeyError: see the service's log"),
    ],
)
@pytest.mark.parametrize("where", ["prepare", "transcribe"])
def test_unexpected_errors_are_logged_and_answered_as_json(model, failure, status, text, where, monkeypatch, caplog):
    monkeypatch.setattr(Recognizer, where, failure)
    answer = post(Service(str(model)), {"content": png(draw("a"))})
    assert_refused(answer, status, text)
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "a request failed" in caplog.text


def test_a_network_that_produces_nan_is_an_internal_error(model, monkeypatch):
    monkeypatch.setattr(
        CRNN, "forward", lambda self, images, widths: (torch.full((3, 1, 6), math.nan), widths // 4 - 1)
    )
    assert_refused(post(Service(str(model)), {"content": png(draw("a"))}), 500, "internal error", "NaN")


def test_nan_scores_are_null_in_the_model_description(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "metrics.json").write_text('{"cer": NaN, "wer": 0.5}')
    with serving(Service(str(tmp_path / "model"))) as client:
        assert client.get("/model").json()["scores"] == {"cer": None, "wer": 0.5}


# --- the page


def test_dropped_images_are_read_and_can_be_downloaded(model, tmp_path):
    drawn = {f"{text}.png": draw(text) for text in ("abba", "cab")}
    paths = [tmp_path / name for name in drawn]
    for path, image in zip(paths, drawn.values(), strict=True):
        image.save(path)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    expected = [each.text for each in recognizer()(paths)]
    with serving(Service(str(model))) as client, browser(tmp_path / "profile") as page:
        page.open(str(client.base_url))
        page.drop("#drop", *paths, tmp_path / "bad.png")
        page.wait_for("document.getElementById('status').textContent === '2 images read, 1 failed'")
        texts = "[...document.querySelectorAll('output')].map(each => each.textContent)"
        assert page.evaluate(texts) == expected
        assert "not an image" in page.evaluate("document.querySelector('.error').textContent")
        units = page.wait_for("document.querySelectorAll('.line:first-child .units .unit').length")
        assert units == len(recognizer()(paths[0])[0].units)
        # Downloads: the text behind the link that the page makes.
        page.evaluate("window.kept = []; URL.createObjectURL = blob => { kept.push(blob); return '#' }")
        page.evaluate("document.getElementById('csv').click(); document.getElementById('json').click()")
        rows = list(csv.DictReader(io.StringIO(page.evaluate("kept[0].text()"))))
        assert [row["text"] for row in rows] == [*expected, ""]
        assert [row["path"] for row in rows] == ["abba.png", "cab.png", "bad.png"]
        assert [each.get("text") for each in json.loads(page.evaluate("kept[1].text()"))] == [*expected, None]
        page.resize(420, 900)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert all(url.startswith((str(client.base_url), "blob:")) for url in page.requested)


def test_the_page_works_by_keyboard_and_asks_for_the_token(model, tmp_path):
    draw("abba").save(tmp_path / "abba.png")
    with serving(Service(str(model), token="sesame")) as client, browser(tmp_path / "profile") as page:
        page.open(str(client.base_url))
        page.wait_for("document.getElementById('ask').open")
        page.call("Input.insertText", text="sesame")
        page.press("Enter", 13)
        page.wait_for("document.getElementById('model').textContent.includes('characters known')")
        page.evaluate("document.body.focus(); document.activeElement.blur()")
        page.press("Tab", 9)
        assert page.evaluate("document.activeElement.id") == "drop"
        page.call("Page.setInterceptFileChooserDialog", enabled=True)
        page.evaluate("window.opened = false; files.addEventListener('click', () => opened = true)")
        page.press("Enter", 13)
        page.wait_for("opened")
        page.drop("#drop", tmp_path / "abba.png")
        page.wait_for("!document.getElementById('copy').disabled")
        page.press("Tab", 9)
        assert page.evaluate("document.activeElement.id") == "copy"
        for _ in range(3):
            page.press("Tab", 9)
        page.press("Enter", 13)
        assert page.evaluate("document.querySelectorAll('.line').length") == 0


def test_an_invalid_token_is_reported_and_closing_the_dialog_ends_the_questions(model, tmp_path):
    draw("abba").save(tmp_path / "abba.png")
    with serving(Service(str(model), token="sesame")) as client, browser(tmp_path / "profile") as page:
        page.open(str(client.base_url))
        page.wait_for("document.getElementById('ask').open")
        page.call("Input.insertText", text="sésame")
        page.press("Enter", 13)
        assert "unaccented" in page.wait_for("document.getElementById('token').validationMessage")
        page.press("Escape", 27)
        page.wait_for("!document.getElementById('ask').open")
        page.drop("#drop", *[tmp_path / "abba.png"] * 6)
        page.wait_for("document.getElementById('ask').open")
        page.press("Escape", 27)
        page.wait_for("document.querySelectorAll('.line > .error:not(.nothing)').length === 6")
        assert not page.evaluate("document.getElementById('ask').open")
        page.drop("#drop", tmp_path / "abba.png")
        page.wait_for("document.getElementById('ask').open")
        page.evaluate("document.getElementById('token').value = ''")
        page.call("Input.insertText", text="wrong")
        page.press("Enter", 13)
        page.wait_for("!document.getElementById('refused').hidden && document.getElementById('ask').open")
        page.call("Input.insertText", text="sesame")
        page.press("Enter", 13)
        page.wait_for("document.querySelectorAll('output').length === 1")


def test_the_page_asks_for_the_number_of_readings_before_it_sends_images(model, tmp_path, monkeypatch):
    draw("abba").save(tmp_path / "abba.png")
    service, gate, real = Service(str(model), ["decoding.method=greedy"]), threading.Event(), Service.describe
    monkeypatch.setattr(Service, "describe", lambda self: gate.wait(20) and real(self))
    with serving(service) as client, browser(tmp_path / "profile") as page:
        page.open(str(client.base_url))
        page.drop("#drop", tmp_path / "abba.png")
        gate.set()
        page.wait_for("document.querySelectorAll('output').length === 1")
        assert page.evaluate("document.querySelectorAll('.line .error').length") == 0


def test_corrupted_images_are_refused_and_the_service_continues(client):
    random = np.random.default_rng(0)
    intact = png(draw("abba"))
    for _ in range(60):
        broken = bytearray(intact)
        for place in random.integers(0, len(intact), 8):
            broken[place] = random.integers(256)
        assert client.post("/predict", content=bytes(broken)).status_code in (200, 422)
    assert client.post("/predict", content=intact).status_code == 200


def with_lexicon(client: httpx.Client, lexicon: str | bytes, as_file: bool = False, **options) -> httpx.Response:
    part = ("words.txt", lexicon, "text/plain") if as_file else (None, lexicon)
    parts = [("image", ("a.png", png(draw("abba")))), ("lexicon", part)]
    return client.post("/predict?n_best=3", files=parts, **options)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_request_can_restrict_its_readings_to_a_lexicon(client, as_file):
    [answer] = with_lexicon(client, "abc\r\n|ſt|é|\ncab\n\n", as_file).json()["predictions"]
    expected = recognizer(num_beam_paths=1)(draw("abba"), n_best=3, lexicon=["abc", "|ſt|é|", "cab"])[0]
    assert [answer["text"], *(each["text"] for each in answer["alternatives"])] == [
        each.text for each in expected.alternatives
    ]


@pytest.mark.parametrize(
    ("lexicon", "status", "texts"),
    [
        ("ab\n" * 1_000_000, 413, ("body too large",)),
        ("ab\n" * 40_000, 413, ("lexicon too large", "max_lexicon_entries")),
        ("\n" * 150_000, 413, ("lexicon too large", "max_lexicon_entries")),
        ("a" * 10_000, 422, ("wrong lexicon", "entry 1, 'a", "needs 19,999 frames")),
        ("a\nb\nxyz", 422, ("wrong lexicon", "entry 3, 'xyz': not in the alphabet: 'x', 'y', 'z'")),
        ("", 422, ("wrong lexicon", "no entries")),
        ("\r\n\n", 422, ("wrong lexicon", "no entries")),
        ("ab\n||", 422, ("wrong lexicon", "entry 2: the entry has no units")),
        (b"\xff\xfe\xfa", 422, ("wrong lexicon", "not UTF-8")),
    ],
    ids=["3 MB", "40,000", "only line ends", "long", "unknown units", "nothing", "blank", "no units", "bytes"],
)
def test_hostile_lexicons_are_refused(client, lexicon, status, texts):
    assert_refused(with_lexicon(client, lexicon, as_file=True), status, *texts)


def test_a_lexicon_has_a_limit_of_characters(model):
    with serving(Service(str(model), limits=Limits(max_lexicon_characters=100))) as client:
        assert with_lexicon(client, "abc\n" * 25).status_code == 200
        assert_refused(with_lexicon(client, "abc\n" * 26), 413, "lexicon too large", "max_lexicon_characters")


def test_two_lexicons_in_a_request_are_refused(client):
    parts = [("image", ("a.png", png(draw("ab")))), ("lexicon", (None, "a")), ("lexicon", (None, "b"))]
    assert_refused(client.post("/predict", files=parts), 422, "wrong lexicon", "2 parts")


def test_a_lexicon_does_not_count_as_an_image(client):
    images = [("image", (f"{n}.png", png(draw("ab")))) for n in range(4)]
    assert client.post("/predict", files=[*images, ("lexicon", ("w.txt", b"ab"))]).status_code == 200
    more = [*images, images[0], ("lexicon", ("w.txt", b"ab"))]
    assert_refused(client.post("/predict", files=more), 422, "too many images")
    assert_refused(client.post("/predict", files=[("lexicon", ("w.txt", b"ab"))]), 422, "no image")


def test_requests_with_different_lexicons_do_not_affect_each_other(client):
    def text(entry: str) -> str:
        return with_lexicon(client, entry).json()["predictions"][0]["text"]

    entries = ["a", "b", "c", "ab", "ba", "ca"] * 3
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(text, entries)) == entries
