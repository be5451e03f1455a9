"""The HTTP API without Ray: responses, refusals and errors."""

import math
import shutil
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer
from raycrnn.serving.service import Service
from tests.conftest import draw, words
from tests.model.test_recognizer import ALPHABET, recognizer
from tests.serving.samples import assert_refused, cuda_out_of_memory, png, post, serving


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


def cpu_out_of_memory(*_, **__):
    torch.empty(10**15)


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


def test_corrupted_images_are_refused_and_the_service_continues(client):
    random = np.random.default_rng(0)
    intact = png(draw("abba"))
    for _ in range(60):
        broken = bytearray(intact)
        for place in random.integers(0, len(intact), 8):
            broken[place] = random.integers(256)
        assert client.post("/predict", content=bytes(broken)).status_code in (200, 422)
    assert client.post("/predict", content=intact).status_code == 200
