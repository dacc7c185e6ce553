"""What stands before every route of the dashboard's server: of Streamlit's own, too, which know of no password."""

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import Counter
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from nelbo.flows.dashboard.palette import DARK, LIGHT
from nelbo.flows.report.rendering import template

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: A wrong guess is answered after that long, and so many of one address may wait for it.
_GUESS_S, _GUESSES = 1.0, 8
#: For that long a visitor stays admitted.
_ADMITTED_S = 12 * 3600
#: A form with a password in it, and the time that it may take to arrive.
_FORM_BYTES, _FORM_S = 4096, 10
#: Whether the server runs is no secret.
_HEALTH = "/_stcore/health"


class Door:
    """Lets in who has given the password, where there is one, and nothing that no page of ours sends.

    Before the password nothing but this class answers: no page, picture, component or socket, and what is sent is not
    read. Afterwards a signed cookie, which only this process can make, admits a browser for twelve hours.
    """

    def __init__(self, app: "ASGIApp", password: str | None) -> None:
        self._app = app
        # Whatever bytes it was in the environment.
        self._password = (password or "").encode("utf-8", "surrogateescape")
        self._key = secrets.token_bytes(32)
        self._guessing: Counter[str] = Counter()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or pass it on."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", ())}
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Streamlit would ask the network for this machine's own addresses, to compare the origin with them.
            if _is_foreign(headers) or not self._is_admitted(scope, headers):
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
        elif scope["path"] == _HEALTH and scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif self._password and scope["method"] == "POST":
            await self._ask(scope, receive, send)
        elif not self._is_admitted(scope, headers):
            await _answer(send, 401, _form(""))
        elif scope["method"] not in ("GET", "HEAD"):
            # Pages send nothing that way; Streamlit would keep uploads in memory.
            await _answer(send, 405, "Not allowed.", [(b"allow", b"GET, HEAD")])
        else:
            await self._app(scope, receive, send)

    async def _ask(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Take a guess at the password, which came to the address that was asked for."""
        visitor = _visitor(scope)
        if self._guessing[visitor] >= _GUESSES:
            said = "Too many guesses at once. Try again in a second."
            await _answer(send, 429, _form(said), [(b"retry-after", b"1")])
            return
        self._guessing[visitor] += 1
        try:
            guess = await _guess(receive)
            if guess is not None and hmac.compare_digest(guess, self._password):
                place = "/" + quote(scope["path"].lstrip("/\\"), safe="/")
                query = scope["query_string"].decode("latin-1")
                location = f"{place}?{query}" if query else place
                cookie = f"{_cookie(scope)}={self._token()}; Path=/; HttpOnly; SameSite=Lax"
                await _answer(send, 303, "", [(b"location", location.encode()), (b"set-cookie", cookie.encode())])
                return
            await asyncio.sleep(_GUESS_S)
        finally:
            self._guessing[visitor] -= 1
            if not self._guessing[visitor]:
                del self._guessing[visitor]
        await _answer(send, 401, _form("This is not the password."))

    def _is_admitted(self, scope: "Scope", headers: dict[str, str]) -> bool:
        if not self._password:
            return True
        try:
            given = SimpleCookie(headers.get("cookie", "")).get(_cookie(scope))
        except CookieError:
            return False
        until, _, signature = (given.value if given else "").partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 20 and signature.isascii()):
            return False
        return hmac.compare_digest(signature, self._sign(until)) and time.time() < int(until)

    def _token(self) -> str:
        until = str(int(time.time()) + _ADMITTED_S)
        return f"{until}.{self._sign(until)}"

    def _sign(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()


def _cookie(scope: "Scope") -> str:
    """A name of its own for each port: browsers send cookies to all ports of a machine."""
    return f"nelbo-{scope['server'][1]}"


def _visitor(scope: "Scope") -> str:
    """The address that guesses are counted of; of IPv6 the part that a household or an office has."""
    address = scope["client"][0] if scope.get("client") else ""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False)) if found.version == 6 else address


def _is_foreign(headers: dict[str, str]) -> bool:
    """Whether a page of another web site asks."""
    return "origin" in headers and urlsplit(headers["origin"]).netloc != headers.get("host")


async def _guess(receive: "Receive") -> bytes | None:
    """The password of a form; None where it is no such form, or does not come to an end."""
    body = b""
    try:
        async with asyncio.timeout(_FORM_S):
            while len(body) <= _FORM_BYTES:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    fields = parse_qs(body.decode("latin-1"), keep_blank_values=True, max_num_fields=10)
                    return fields.get("password", [""])[0].encode("utf-8", "replace")
    except (TimeoutError, ValueError):
        return None
    return None


def _form(said: str) -> str:
    """The page that asks for the password, and what there is to say of the last guess."""
    return template("login.html.j2").render(said=said, light=LIGHT, dark=DARK)


async def _answer(send: "Send", status: int, page: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = page.encode()
    policy = b"default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    always: list[tuple[bytes, Any]] = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", policy),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*always, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})
