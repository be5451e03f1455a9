"""The door before the proxies: a request whose replica died is asked again, once, with all of its body."""

import asyncio
import json

import pytest

from raycrnn.serving.limits import BodyLimiter
from raycrnn.serving.proxy_middleware import TRIES, ProxyMiddleware, middlewares

BODY = [
    {"type": "http.request", "body": b"ab", "more_body": True},
    {"type": "http.request", "body": b"cd", "more_body": False},
]


class Replicas:
    """An ASGI application that ends so many requests without an answer, after some messages of them."""

    def __init__(self, deaths: int, messages_read: int = 1):
        self.deaths, self.messages_read, self.asked = deaths, messages_read, 0

    async def __call__(self, scope, receive, send):
        self.asked += 1
        if self.asked <= self.deaths:
            for _ in range(self.messages_read):
                await receive()
            return
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def ask(app, messages=BODY, headers=()) -> list[dict]:
    """What the door sends."""
    incoming, sent = iter(messages), []

    async def receive():
        return next(incoming, None) or await asyncio.sleep(30)

    async def send(message):
        sent.append(message)

    door = ProxyMiddleware(app, BodyLimiter(max_body_mb=1e-5, body_seconds=0.2))
    asyncio.run(door({"type": "http", "method": "POST", "headers": headers}, receive, send))
    assert door.requests == 0
    return sent


@pytest.mark.parametrize("messages_read", [0, 1])
@pytest.mark.parametrize("deaths", [0, 1])
def test_a_request_is_asked_again_with_all_of_its_body(deaths, messages_read):
    replicas = Replicas(deaths, messages_read)
    sent = ask(replicas)
    assert [sent[0]["status"], sent[1]["body"]] == [200, b"abcd"]
    assert replicas.asked == deaths + 1


def test_one_that_is_never_answered_is_refused_with_a_time_to_come_again():
    replicas = Replicas(deaths=99)
    start, body = ask(replicas)
    assert replicas.asked == TRIES
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"].isdigit()
    assert json.loads(body["body"]).keys() == {"error", "detail"}


GONE = {"type": "http.disconnect"}


def test_nobody_is_asked_again_for_a_client_that_has_gone():
    replicas = Replicas(deaths=99, messages_read=2)
    assert ask(replicas, [*BODY, GONE]) == []
    assert replicas.asked == 1


def test_nobody_is_asked_for_half_a_body():
    replicas = Replicas(deaths=0)
    assert ask(replicas, [BODY[0], GONE]) == []
    assert replicas.asked == 0


@pytest.mark.parametrize(
    ("messages", "headers", "status"),
    [
        ([{"type": "http.request", "body": b"x" * 11}], (), 413),
        ([{"type": "http.request", "body": b"x" * 6, "more_body": True}] * 3, (), 413),
        ([], [(b"content-length", b"11")], 413),
        ([BODY[0]], (), 408),
    ],
)
def test_no_replica_is_asked_for_a_body_beyond_the_limits(messages, headers, status):
    replicas = Replicas(deaths=0)
    start, body = ask(replicas, messages, headers)
    assert start["status"] == status
    assert json.loads(body["body"]).keys() == {"error", "detail"}
    assert replicas.asked == 0


def test_more_than_may_be_under_way_is_refused_at_once_and_what_has_no_body_is_not():
    gate, statuses = asyncio.Event(), []

    async def app(scope, receive, send):
        if scope["method"] == "POST":
            await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask_once(door, method):
        async def receive():
            return BODY[1]

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append((method, message["status"]))

        await door({"type": "http", "method": method, "headers": ()}, receive, send)

    async def ask_all():
        door = ProxyMiddleware(app, BodyLimiter(), most_requests=2)
        waiting = [asyncio.create_task(ask_once(door, "POST")) for _ in range(2)]
        await asyncio.sleep(0.05)
        await ask_once(door, "POST")
        await ask_once(door, "GET")
        gate.set()
        await asyncio.gather(*waiting)

    asyncio.run(ask_all())
    assert statuses == [("POST", 503), ("GET", 200), ("POST", 200), ("POST", 200)]


def answers(app, scopes, intake=None, most_requests=2, messages=BODY) -> list[tuple[int, dict]]:
    """Status and body of what the door answers to requests that come one after the other, all before any ends."""

    async def ask_once(door, scope):
        incoming, sent = iter(messages), []

        async def receive():
            return next(incoming, None) or await asyncio.sleep(30)

        async def send(message):
            sent.append(message)

        await door({"type": "http", "headers": (), **scope}, receive, send)
        return sent[0]["status"], sent[1].get("body", b"")

    async def ask_all():
        door = ProxyMiddleware(app, intake or BodyLimiter(), most_requests)
        asking = []
        for scope in scopes:
            asking.append(asyncio.create_task(ask_once(door, scope)))
            await asyncio.sleep(0.02)
        found = await asyncio.gather(*asking)
        assert door.intake.held == door.requests == 0
        return found

    return asyncio.run(ask_all())


async def ok(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_those_whose_body_is_slow_to_come_do_not_keep_others_out():
    async def ask_all():
        door, statuses, rest = ProxyMiddleware(ok, BodyLimiter(), most_requests=2), [], asyncio.Event()

        async def ask_once(slow):
            parts = iter(BODY)

            async def receive():
                part = next(parts)
                if slow and part is BODY[1]:
                    await rest.wait()
                return part

            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append((slow, message["status"]))

            await door({"type": "http", "method": "POST", "headers": ()}, receive, send)

        slow = [asyncio.create_task(ask_once(slow=True)) for _ in range(5)]
        await asyncio.sleep(0.05)
        await ask_once(slow=False)
        rest.set()
        await asyncio.gather(*slow)
        return statuses

    assert asyncio.run(ask_all()) == [(False, 200)] + [(True, 200)] * 5


def test_bodies_are_held_until_their_requests_are_answered():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.2)
        await ok(scope, receive, send)

    found = answers(slow, [{"method": "POST"}] * 3, BodyLimiter(max_body_mb=1e-5, max_upload_mb=1e-5), most_requests=9)
    assert [status for status, _ in found] == [200, 200, 503]
    assert "max_upload_mb" in json.loads(found[2][1])["detail"]


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        (b"x-request-id", b"a-1.b_2", True),
        (b"x-request-id", b"\xff", False),
        (b"x-request-id", b"a\tb", False),
        (b"x-request-id", b"a" * 200, False),
        (b"serve_multiplexed_model_id", b"a", False),
        (b"Serve-Multiplexed-Model-Id", b"a", False),
        (b"x-session-id", b"a", False),
        (b"x_session_id", b"a", False),
        (b"x-request-timeout-seconds", b"0", False),
        (b"x-request-disconnect-disabled", b"?1", False),
        (b"content-type", b"\xff", True),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_headers_that_steer_ray_do_not_pass(method, name, value, passes):
    seen = []

    async def app(scope, receive, send):
        seen.extend(scope["headers"])
        await ok(scope, receive, send)

    other = (b"authorization", b"Bearer sesame")
    answers(app, [{"method": method, "headers": [(name, value), other]}])
    assert seen == ([(name, value), other] if passes else [other])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_goes_wrong_before_an_answer_is_logged_and_answered_as_json(method, caplog):
    async def app(scope, receive, send):
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    ((status, body),) = answers(app, [{"method": method}])
    assert status == 503
    assert json.loads(body).keys() == {"error", "detail"}
    assert "invalid start byte" in caplog.text


def test_what_goes_wrong_in_the_midst_of_an_answer_is_no_second_answer():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("in the midst")

    with pytest.raises(ValueError, match="in the midst"):
        answers(app, [{"method": "GET"}])


def test_large_bodies_are_let_in_where_they_are_asked_for(monkeypatch):
    monkeypatch.setenv("RAYCRNN_MAX_BODY_MB", "300")
    ((intake, _),) = [each.args for each in middlewares()]
    assert intake.max_upload_mb >= intake.max_body_mb == 300


def test_what_is_no_request_passes_through():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    asyncio.run(ProxyMiddleware(app, BodyLimiter())({"type": "lifespan"}, 1, 2))
    assert seen == [({"type": "lifespan"}, 1, 2)]
    assert [each.cls for each in middlewares()] == [ProxyMiddleware]
