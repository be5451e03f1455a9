"""The middleware of Ray Serve's proxies: limits, and a second attempt with the full body if a replica dies."""

import asyncio
import json

import pytest

from raycrnn.errors import UsageError
from raycrnn.serving.limits import BodyLimiter
from raycrnn.serving.proxy_middleware import MAX_ATTEMPTS, ProxyMiddleware, middlewares, read_max_body_mb
from raycrnn.serving.settings import MAX_BODY_MB

BODY = [
    {"type": "http.request", "body": b"ab", "more_body": True},
    {"type": "http.request", "body": b"cd", "more_body": False},
]


class Replicas:
    """An ASGI application whose first requests end without a response, after reading some messages."""

    def __init__(self, deaths: int, messages_read: int = 1):
        self.deaths, self.messages_read, self.requests = deaths, messages_read, 0

    async def __call__(self, scope, receive, send):
        self.requests += 1
        if self.requests <= self.deaths:
            for _ in range(self.messages_read):
                await receive()
            return
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def send_request(app, messages=BODY, headers=()) -> list[dict]:
    """Return the messages that the middleware sends for one request."""
    incoming, sent = iter(messages), []

    async def receive():
        return next(incoming, None) or await asyncio.sleep(30)

    async def send(message):
        sent.append(message)

    middleware = ProxyMiddleware(app, BodyLimiter(max_body_mb=1e-5, body_seconds=0.2))
    asyncio.run(middleware({"type": "http", "method": "POST", "headers": headers}, receive, send))
    assert middleware.requests_in_progress == 0
    return sent


@pytest.mark.parametrize("messages_read", [0, 1])
@pytest.mark.parametrize("deaths", [0, 1])
def test_a_request_is_repeated_with_its_full_body_if_a_replica_dies(deaths, messages_read):
    replicas = Replicas(deaths, messages_read)
    sent = send_request(replicas)
    assert [sent[0]["status"], sent[1]["body"]] == [200, b"abcd"]
    assert replicas.requests == deaths + 1


def test_a_request_that_kills_every_replica_gets_503_with_retry_after():
    replicas = Replicas(deaths=99)
    start, body = send_request(replicas)
    assert replicas.requests == MAX_ATTEMPTS
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"].isdigit()
    assert json.loads(body["body"]).keys() == {"error", "detail"}


DISCONNECT = {"type": "http.disconnect"}


def test_a_request_is_not_repeated_after_the_client_disconnects():
    replicas = Replicas(deaths=99, messages_read=2)
    assert send_request(replicas, [*BODY, DISCONNECT]) == []
    assert replicas.requests == 1


def test_an_incomplete_body_reaches_no_replica():
    replicas = Replicas(deaths=0)
    assert send_request(replicas, [BODY[0], DISCONNECT]) == []
    assert replicas.requests == 0


@pytest.mark.parametrize(
    ("messages", "headers", "status"),
    [
        ([{"type": "http.request", "body": b"x" * 11}], (), 413),
        ([{"type": "http.request", "body": b"x" * 6, "more_body": True}] * 3, (), 413),
        ([], [(b"content-length", b"11")], 413),
        ([BODY[0]], (), 408),
    ],
)
def test_a_body_over_the_limits_reaches_no_replica(messages, headers, status):
    replicas = Replicas(deaths=0)
    start, body = send_request(replicas, messages, headers)
    assert start["status"] == status
    assert json.loads(body["body"]).keys() == {"error", "detail"}
    assert replicas.requests == 0


def test_requests_over_the_limit_are_refused_at_once_except_those_without_a_body():
    gate, statuses = asyncio.Event(), []

    async def app(scope, receive, send):
        if scope["method"] == "POST":
            await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def request_once(middleware, method):
        async def receive():
            return BODY[1]

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append((method, message["status"]))

        await middleware({"type": "http", "method": method, "headers": ()}, receive, send)

    async def run_all():
        middleware = ProxyMiddleware(app, BodyLimiter(), max_requests=2)
        waiting = [asyncio.create_task(request_once(middleware, "POST")) for _ in range(2)]
        await asyncio.sleep(0.05)
        await request_once(middleware, "POST")
        await request_once(middleware, "GET")
        gate.set()
        await asyncio.gather(*waiting)

    asyncio.run(run_all())
    assert statuses == [("POST", 503), ("GET", 200), ("POST", 200), ("POST", 200)]


def responses(app, scopes, body_limiter=None, max_requests=2, messages=BODY) -> list[tuple[int, dict]]:
    """Return status and body of the responses to requests that start in turn, each before the others end."""

    async def request_once(middleware, scope):
        incoming, sent = iter(messages), []

        async def receive():
            return next(incoming, None) or await asyncio.sleep(30)

        async def send(message):
            sent.append(message)

        await middleware({"type": "http", "headers": (), **scope}, receive, send)
        return sent[0]["status"], sent[1].get("body", b"")

    async def run_all():
        middleware = ProxyMiddleware(app, body_limiter or BodyLimiter(), max_requests)
        tasks = []
        for scope in scopes:
            tasks.append(asyncio.create_task(request_once(middleware, scope)))
            await asyncio.sleep(0.02)
        results = await asyncio.gather(*tasks)
        assert middleware.body_limiter.held_bytes == middleware.requests_in_progress == 0
        return results

    return asyncio.run(run_all())


async def ok(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_slow_uploads_do_not_keep_other_requests_out():
    async def run_all():
        middleware, statuses, rest = ProxyMiddleware(ok, BodyLimiter(), max_requests=2), [], asyncio.Event()

        async def request_once(slow):
            parts = iter(BODY)

            async def receive():
                part = next(parts)
                if slow and part is BODY[1]:
                    await rest.wait()
                return part

            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append((slow, message["status"]))

            await middleware({"type": "http", "method": "POST", "headers": ()}, receive, send)

        slow = [asyncio.create_task(request_once(slow=True)) for _ in range(5)]
        await asyncio.sleep(0.05)
        await request_once(slow=False)
        rest.set()
        await asyncio.gather(*slow)
        return statuses

    assert asyncio.run(run_all()) == [(False, 200)] + [(True, 200)] * 5


def test_bodies_count_until_their_requests_are_answered():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.2)
        await ok(scope, receive, send)

    results = responses(
        slow, [{"method": "POST"}] * 3, BodyLimiter(max_body_mb=1e-5, max_upload_mb=1e-5), max_requests=9
    )
    assert [status for status, _ in results] == [200, 200, 503]
    assert "max_upload_mb" in json.loads(results[2][1])["detail"]


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
def test_headers_that_control_ray_are_removed(method, name, value, passes):
    seen = []

    async def app(scope, receive, send):
        seen.extend(scope["headers"])
        await ok(scope, receive, send)

    other = (b"authorization", b"Bearer sesame")
    responses(app, [{"method": method, "headers": [(name, value), other]}])
    assert seen == ([(name, value), other] if passes else [other])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_error_before_the_response_is_logged_and_answered_as_json(method, caplog):
    async def app(scope, receive, send):
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    ((status, body),) = responses(app, [{"method": method}])
    assert status == 503
    assert json.loads(body).keys() == {"error", "detail"}
    assert "invalid start byte" in caplog.text


def test_an_error_during_the_response_sends_no_second_response():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        responses(app, [{"method": "GET"}])


def test_the_environment_can_raise_the_limit_of_a_body(monkeypatch):
    monkeypatch.setenv("RAYCRNN_MAX_BODY_MB", "300")
    ((body_limiter, _),) = [each.args for each in middlewares()]
    assert body_limiter.max_upload_mb >= body_limiter.max_body_mb == 300


def test_lifespan_messages_pass_through():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    asyncio.run(ProxyMiddleware(app, BodyLimiter())({"type": "lifespan"}, 1, 2))
    assert seen == [({"type": "lifespan"}, 1, 2)]
    assert [each.cls for each in middlewares()] == [ProxyMiddleware]


@pytest.mark.parametrize("text", ["20MB", "", "0", "-1", "nan"])
def test_a_limit_of_the_environment_that_is_no_number_is_refused(text):
    with pytest.raises(UsageError, match=r"RAYCRNN_MAX_BODY_MB=.*: must be a number of megabytes"):
        read_max_body_mb(text)
    assert (read_max_body_mb(None), read_max_body_mb("2.5")) == (MAX_BODY_MB, 2.5)
