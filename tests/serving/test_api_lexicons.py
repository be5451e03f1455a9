"""Requests with a lexicon."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from raycrnn.serving.service import Service
from raycrnn.serving.settings import Limits
from tests.conftest import draw
from tests.model.test_recognizer import recognizer
from tests.serving.samples import assert_refused, png, serving


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
