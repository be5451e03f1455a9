"""The page of the service, in a real browser."""

import csv
import io
import json
import threading

from raycrnn.serving.service import Service
from tests.browser import browser
from tests.conftest import draw
from tests.model.test_recognizer import recognizer
from tests.serving.samples import serving


def test_the_pages_security_policy_forbids_frames_and_foreign_forms(client):
    policy = client.get("/").headers["Content-Security-Policy"]
    for rule in ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert rule in policy


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
