"""The pages of the dashboard as a web application, behind its door."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import duckdb
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from nelbo.flows.dashboard.door import HEALTH, Door
from nelbo.flows.dashboard.pages import batch, compare, effect, exports, home, image, review, whatif
from nelbo.flows.dashboard.rendering import page
from nelbo.flows.dashboard.tables import Tables
from nelbo.flows.workspace.errors import bad_input, store_errors
from nelbo.flows.workspace.layout import Workspace

#: Pages run only our scripts and styles, talk only to this server, and cannot be embedded in other pages.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_STATIC = Path(__file__).with_name("static")


def make_app(workspace: Workspace, password: str | None, hosts: Sequence[str]) -> ASGIApp:
    """The dashboard's web application.

    Args:
        password: what visitors have to give; None or empty lets everybody in.
        hosts: host names that requests may use; "*" stands for any.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.tables = Tables(workspace)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.middleware("http")(_with_headers)
    app.add_api_route(HEALTH, _health, methods=["GET", "HEAD"])
    app.mount("/static", StaticFiles(directory=_STATIC))
    for pages in (home, batch, whatif, image, review, effect, compare, exports):
        app.include_router(pages.router)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(HTTPException, _not_there)
    for error in (*bad_input(), *store_errors(), duckdb.Error):
        app.add_exception_handler(error, _undrawn)
    return Door(app, password)


def _health() -> Response:
    return PlainTextResponse("ok")


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(_HEADERS)
    # Pages change with the workspace; scripts and styles only with the version.
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


def _undrawn(_request: Request, error: Exception) -> Response:
    return page("message.html.j2", "Not drawn", 500, said=f"This page cannot be drawn: {error}")


def _misunderstood(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    found = [f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()]
    said = f"The address is not one of this dashboard ({'; '.join(found[:5])})."
    return page("message.html.j2", "Not understood", 422, said=said)


def _not_there(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    said = f"There is no such page ({error.detail})."
    return page("message.html.j2", "Not there", error.status_code, said=said)
