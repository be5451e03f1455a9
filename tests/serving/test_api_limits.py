"""Limits on requests of the HTTP API: what waits, and what is refused."""

import threading
import time

from raycrnn.serving.service import Service
from raycrnn.serving.settings import Limits
from tests.conftest import draw
from tests.serving.samples import assert_refused, gated, png, post, post_in_thread, serving, wait_until


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


def queued(service: Service) -> int:
    """Return how many lines are in the queue or being read, or fewer while the service's thread moves one.

    `waiting` could count a line twice here: while this thread adds the parts up, a line leaves its reservation.
    """
    return len(service.model.batcher._being_read) + len(service.model.batcher._queue)


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
