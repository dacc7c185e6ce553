"""Access control before every route of the dashboard's server."""

import asyncio
import hmac
import ipaddress
import secrets
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from itsdangerous import BadSignature, TimestampSigner
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse
from starlette.websockets import WebSocketClose

from nelbo.flows.dashboard.palette import DARK, LIGHT
from nelbo.flows.report.rendering import template

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Delay of the answer to a wrong guess, and most guesses of one address that may wait at a time.
_GUESS_S, _GUESSES = 1.0, 8
#: How long a visitor stays admitted.
_ADMITTED_S = 12 * 3600
#: Most bytes of a form with a password and of a decision, and the most time for either to arrive.
_FORM_BYTES, _DECISION_BYTES, _ARRIVAL_S = 4096, 65_536, 10
#: Whether the server runs is no secret.
HEALTH = "/health"
#: The only route to which pages send data.
REVIEWS = "/reviews"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"


class Door:
    """Admits visitors who have given the password, if there is one, and only requests that our pages send.

    Before that, only this class answers: no page, picture or script is sent, and no request body but the password is
    read. Afterwards a signed cookie, which only this process can make, admits a browser for twelve hours.
    """

    def __init__(self, app: "ASGIApp", password: str | None) -> None:
        self._app = app
        # The same bytes as in the environment.
        self._password = (password or "").encode("utf-8", "surrogateescape")
        self._signer = TimestampSigner(secrets.token_bytes(32))
        self._guessing: Counter[str] = Counter()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or pass it on."""
        app = self._app if scope["type"] == "lifespan" else await self._answering(HTTPConnection(scope), receive)
        await app(scope, receive, send)

    async def _answering(self, asked: HTTPConnection, receive: "Receive") -> "ASGIApp":
        """What answers a request: the app, if the request is allowed."""
        kind, path, method = (asked.scope.get(name) for name in ("type", "path", "method"))
        if kind == "websocket":
            return WebSocketClose(1008)
        if path == HEALTH and method in ("GET", "HEAD"):
            return self._app
        is_admitted = self._is_admitted(asked)
        if method == "POST" and path == REVIEWS:
            if not is_admitted:
                # The browser keeps the decision, and sends it again once it is admitted.
                return _answer("Give the password first.", 401)
            return _answer("Not from here.", 403) if _is_foreign(asked) else await self._with_decision(receive)
        if self._password and method == "POST":
            return await self._ask(asked, receive)
        if not is_admitted:
            return _form("", 401)
        return self._app if method in ("GET", "HEAD") else _answer("Not allowed.", 405, allow="GET, HEAD")

    async def _ask(self, asked: HTTPConnection, receive: "Receive") -> HTMLResponse:
        """Check a password that was sent to the address of the requested page."""
        visitor = _visitor(asked)
        if self._guessing[visitor] >= _GUESSES:
            return _form("Too many guesses at once. Try again in a second.", 429, retry_after="1")
        self._guessing[visitor] += 1
        try:
            guess = await _guess(receive)
            if guess is not None and hmac.compare_digest(guess, self._password):
                place = "/" + quote(asked.scope["path"].lstrip("/\\"), safe="/")
                query = asked.scope["query_string"].decode("latin-1")
                answer = _answer("", 303, location=f"{place}?{query}" if query else place)
                answer.set_cookie(_cookie(asked), self._signer.sign(b"").decode(), httponly=True)
                return answer
            await asyncio.sleep(_GUESS_S)
        finally:
            self._guessing[visitor] -= 1
            if not self._guessing[visitor]:
                del self._guessing[visitor]
        return _form("This is not the password.", 401)

    async def _with_decision(self, receive: "Receive") -> "ASGIApp":
        """The app, given a body of at most a decision's size: the app itself would read a body of any size."""
        body = await _body(receive, _DECISION_BYTES)
        if body is None:
            return _answer("Too long.", 413, connection="close")
        left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def given() -> "Message":
            return left.pop() if left else await receive()

        async def answer(scope: "Scope", _receive: "Receive", send: "Send") -> None:
            await self._app(scope, given, send)

        return answer

    def _is_admitted(self, asked: HTTPConnection) -> bool:
        if not self._password:
            return True
        try:
            self._signer.unsign(asked.cookies.get(_cookie(asked), ""), max_age=_ADMITTED_S)
        except BadSignature:
            return False
        return True


def _cookie(asked: HTTPConnection) -> str:
    """The cookie's name, different for each port: browsers send cookies to all ports of a machine."""
    return f"nelbo-{asked.scope['server'][1]}"


def _visitor(asked: HTTPConnection) -> str:
    """The address by which guesses are counted; for IPv6 the network of a household or an office."""
    address = asked.client.host if asked.client else ""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False)) if found.version == 6 else address


def _is_foreign(asked: HTTPConnection) -> bool:
    """Whether the request comes from a page of another web site."""
    origin = asked.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != asked.headers.get("host")


async def _guess(receive: "Receive") -> bytes | None:
    """The password of a form; None if the form is invalid or does not arrive completely."""
    body = await _body(receive, _FORM_BYTES)
    try:
        fields = parse_qs((body or b"").decode("latin-1"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return None
    return None if body is None else fields.get("password", [""])[0].encode("utf-8", "replace")


async def _body(receive: "Receive", most: int) -> bytes | None:
    """The request's body; None if it is too long, or does not arrive in time."""
    body = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(_ARRIVAL_S):
            while len(body) <= most:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    return body if len(body) <= most else None
    return None


def _form(said: str, status: int, **headers: str) -> HTMLResponse:
    """The page that asks for the password, with a message on the last guess."""
    return _answer(template("login.html.j2").render(said=said, light=LIGHT, dark=DARK), status, **headers)


def _answer(page: str, status: int, **headers: str) -> HTMLResponse:
    always = {"cache_control": "no-store", "content_security_policy": _POLICY}
    return HTMLResponse(page, status, {name.replace("_", "-"): value for name, value in (always | headers).items()})
