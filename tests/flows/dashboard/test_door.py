"""The dashboard's login: no route answers before the password, and one visitor's guesses never delay another."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from nelbo.flows.dashboard import door
from nelbo.flows.dashboard.door import Door

PASSWORD = "correct horse <b> \u00fc+&="  # noqa: S105

Message = dict[str, Any]


class Inner:
    """An app that counts the requests that reach it."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.read: bytes | None = None

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        self.reached.append(scope.get("path", scope["type"]))
        if scope.get("method") == "POST":
            message = await receive()
            self.read = message["body"]
            assert not message["more_body"]
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"inside"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.accept"})


class Visitor:
    """A client at an address, with the cookies that the login gave it."""

    def __init__(self, app: Door, address: str = "192.0.2.1") -> None:
        self.app, self.address, self.cookie = app, address, ""
        self.headers: dict[str, str] = {}
        self.n_read = 0

    async def ask(self, path: str, method: str = "GET", body: bytes = b"", kind: str = "http", **headers: str) -> int:
        given = headers | ({"cookie": self.cookie} if self.cookie else {})
        scope = {
            "type": kind,
            "path": path,
            "query_string": b"a=b",
            "method": method,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": (self.address, 1),
            "server": ("host", 8501),
        }
        sent: list[Message] = []
        pieces = [body[start : start + 1024] for start in range(0, len(body), 1024)] or [b""]

        async def receive() -> Message:
            self.n_read += 1
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        if kind == "websocket":
            return 101 if sent[0]["type"] == "websocket.accept" else 403
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        self.body = b"".join(message["body"] for message in sent[1:]).decode()
        return int(sent[0]["status"])

    async def enter(self, password: str, path: str = "/") -> int:
        status = await self.ask(path, "POST", urlencode({"password": password}).encode())
        if "set-cookie" in self.headers:
            self.cookie = self.headers["set-cookie"].partition(";")[0]
        return status


ROUTES = [
    "/",
    "/batch",
    "/batch/what-if",
    "/live",
    "/image/original",
    "/review/image",
    "/reviews",
    "/reviews.csv",
    "/static/pages.js",
    "/health/",
    "/healthy",
    "/docs",
]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_no_route_answers_before_the_password(path: str, method: str) -> None:
    inner = Inner()
    visitor = Visitor(Door(inner, PASSWORD))
    for cookie in (
        "",
        "nelbo-8501=",
        "nelbo-8501=9999999999.",
        f"nelbo-8501=9999999999.{'0' * 64}",
        "nelbo-8501=x.\xff",
    ):
        visitor.cookie = cookie
        assert asyncio.run(visitor.ask(path, method, b"x" * 10**6)) == 401
    assert inner.reached == []
    # The body of the request is not read.
    assert visitor.n_read == 0
    assert "no-store" in visitor.headers["cache-control"]


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_the_health_route_needs_no_password(password: str | None) -> None:
    inner = Inner()
    visitor = Visitor(Door(inner, password))
    assert [asyncio.run(visitor.ask("/health", method)) for method in ("GET", "HEAD")] == [200, 200]
    assert asyncio.run(visitor.ask("/health", "PUT")) == (401 if password else 405)
    assert inner.reached == ["/health"] * 2


def test_no_socket_opens_before_the_password() -> None:
    inner = Inner()
    assert asyncio.run(Visitor(Door(inner, PASSWORD)).ask("/live", kind="websocket")) == 403
    assert inner.reached == []


def test_only_the_password_admits_a_visitor() -> None:
    app = Door(Inner(), PASSWORD)
    visitor, other = Visitor(app), Visitor(app)
    assert asyncio.run(visitor.enter(PASSWORD, "/batch")) == 303
    assert visitor.headers["location"] == "/batch?a=b"
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(visitor.headers["set-cookie"].split("; "))
    assert PASSWORD not in visitor.headers["set-cookie"]
    for path in ROUTES:
        assert asyncio.run(visitor.ask(path)) == 200
        assert asyncio.run(other.ask(path)) == 401
    # No page of the dashboard opens a WebSocket.
    assert asyncio.run(visitor.ask("/live", kind="websocket")) == 403
    # A cookie of another process and an expired cookie are refused.
    assert asyncio.run(Visitor(Door(Inner(), PASSWORD)).ask("/")) == 401
    stranger = Visitor(Door(Inner(), PASSWORD))
    stranger.cookie = visitor.cookie
    assert asyncio.run(stranger.ask("/")) == 401


def test_a_session_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor(Door(Inner(), PASSWORD))
    asyncio.run(visitor.enter(PASSWORD))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 11 * 3600)
    assert asyncio.run(visitor.ask("/")) == 200
    monkeypatch.setattr(time, "time", lambda: real() + 13 * 3600)
    assert asyncio.run(visitor.ask("/")) == 401


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example/x", "///evil.example", "/a\r\nb: c"])
def test_the_password_leads_to_no_other_site(path: str) -> None:
    visitor = Visitor(Door(Inner(), PASSWORD))
    assert asyncio.run(visitor.enter(PASSWORD, path)) == 303
    assert visitor.headers["location"].startswith("/")
    assert not visitor.headers["location"].startswith(("//", "/\\"))
    assert visitor.headers["location"].isprintable()


@pytest.mark.parametrize("password", [None, PASSWORD])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused_to_everybody(password: str | None, method: str) -> None:
    inner = Inner()
    visitor = Visitor(Door(inner, password))
    if password:
        asyncio.run(visitor.enter(password))
    visitor.n_read = 0
    assert asyncio.run(visitor.ask("/reviews", method, b"x" * 10**6)) == 405
    assert (inner.reached, visitor.n_read) == ([], 0)


def test_without_a_password_every_visitor_is_admitted() -> None:
    inner = Inner()
    visitor = Visitor(Door(inner, None))
    assert asyncio.run(visitor.ask("/")) == 200
    assert asyncio.run(visitor.ask("/", "POST", b"password=")) == 405
    assert asyncio.run(visitor.ask("/review", "POST", b"{}")) == 405
    assert asyncio.run(visitor.ask("/reviews/", "POST", b"{}")) == 405
    assert asyncio.run(visitor.ask("/live", kind="websocket")) == 403
    assert inner.reached == ["/"]
    assert asyncio.run(visitor.ask("/reviews", "POST", b"{}")) == 200


def test_with_a_password_a_post_elsewhere_is_a_guess(clock: asyncio.Event) -> None:
    """Also from a visitor who is logged in: a login sent twice, or from a tab left open, still leads to its page."""
    clock.set()
    inner = Inner()
    visitor = Visitor(Door(inner, PASSWORD))
    assert asyncio.run(visitor.enter("wrong", "/batch")) == 401
    assert asyncio.run(visitor.enter(PASSWORD, "/batch")) == 303
    assert asyncio.run(visitor.enter(PASSWORD, "/batch")) == 303
    assert asyncio.run(visitor.enter("wrong", "/batch")) == 401
    assert inner.reached == []


def test_a_decision_without_a_session_does_not_count_as_a_guess() -> None:
    """A browser whose session has ended resends its decisions; these delay nobody, and are not limited as guesses."""
    inner = Inner()
    door = Door(inner, PASSWORD)

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(Visitor(door).ask("/reviews", "POST", b"{}") for _ in range(20)))

    assert asyncio.run(all_at_once()) == [401] * 20
    visitor = Visitor(door)
    asyncio.run(visitor.enter(PASSWORD))
    assert asyncio.run(visitor.ask("/reviews", "POST", b"{}")) == 200
    assert inner.reached == ["/reviews"]


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_page_of_another_site_cannot_decide(password: str | None) -> None:
    inner = Inner()
    visitor = Visitor(Door(inner, password))
    if password:
        asyncio.run(visitor.enter(password))
    for origin, status in (
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://host:8502", 403),
        ("http://host", 403),
        ("http://host:8501.evil.example", 403),
        ("http://evil.example#host:8501", 403),
        ("http://host:8501@evil.example", 403),
        ("http://host:8501", 200),
    ):
        assert asyncio.run(visitor.ask("/reviews", "POST", b"{}", origin=origin, host="host:8501")) == status, origin
    # A program sends no Origin header, but it has no visitor's cookie either.
    assert asyncio.run(visitor.ask("/reviews", "POST", b"{}", host="host:8501")) == 200
    assert inner.reached == ["/reviews"] * 2


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_the_length_of_a_decision_is_limited(password: str | None) -> None:
    """A decision within the limit arrives whole; of a longer one, no more is read than shows its length."""
    inner = Inner()
    visitor = Visitor(Door(inner, password))
    if password:
        asyncio.run(visitor.enter(password))
    for n, status in ((0, 200), (65_536, 200), (65_537, 413), (10**7, 413)):
        inner.read, visitor.n_read = None, 0
        assert asyncio.run(visitor.ask("/reviews", "POST", b"x" * n)) == status
        assert inner.read == (b"x" * n if status == 200 else None)
        assert visitor.n_read <= 66


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """An event: wrong guesses are answered once it is set."""
    due = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await due.wait()

    monkeypatch.setattr(door.asyncio, "sleep", sleep)
    return due


def test_guesses_of_one_visitor_delay_no_other(clock: asyncio.Event) -> None:
    async def run() -> None:
        app = Door(Inner(), PASSWORD)
        attackers = [Visitor(app) for _ in range(50)]
        guesses = [asyncio.ensure_future(attacker.enter("wrong")) for attacker in attackers]
        while sum(guess.done() for guess in guesses) < 42:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        # Guesses beyond eight are refused unread, right or wrong.
        assert [guess.result() for guess in guesses if guess.done()] == [429] * 42
        assert await Visitor(app).enter(PASSWORD) == 429
        # Other visitors are answered at once.
        for address in ("192.0.2.2", "2001:db8::1", "127.0.0.1"):
            assert await Visitor(app, address).enter(PASSWORD) == 303
        clock.set()
        assert sorted(await asyncio.gather(*guesses)) == [401] * 8 + [429] * 42
        assert await Visitor(app).enter(PASSWORD) == 303
        # No state is kept of visitors who have left.
        assert not app._guessing

    asyncio.run(run())


def test_addresses_of_one_ipv6_network_count_as_one_visitor(clock: asyncio.Event) -> None:
    async def run() -> None:
        app = Door(Inner(), PASSWORD)
        guesses = [asyncio.ensure_future(Visitor(app, f"2001:db8::{i:x}").enter("wrong")) for i in range(1, 10)]
        while not any(guess.done() for guess in guesses):
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        assert set(app._guessing) == {"2001:db8::/64"}
        clock.set()
        assert sorted(await asyncio.gather(*guesses)) == [401] * 8 + [429]

    asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [b"", b"password", b"password=", b"x" * 10**7, b"password=" + b"a" * 10**7, b"&" * 4000, b"password=%ff\xff"],
)
def test_a_malformed_login_form_is_a_wrong_password(body: bytes, clock: asyncio.Event) -> None:
    visitor = Visitor(Door(Inner(), PASSWORD))

    async def run() -> int:
        clock.set()
        return await visitor.ask("/", "POST", body)

    assert asyncio.run(run()) == 401
    assert "This is not the password." in visitor.body
    assert visitor.n_read <= 6
