"""What all routes have: the tables of the workspace, and pages that are drawn anew where a file turns out damaged."""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec

from fastapi import Depends, Query, Request, Response

from nelbo.flows.dashboard.tables import Tables

P = ParamSpec("P")


def _tables(request: Request) -> Tables:
    tables: Tables = request.app.state.tables
    return tables


#: The workspace is the command line's, so no visitor can name another.
Asked = Annotated[Tables, Depends(_tables)]
#: Of a table; no table has as many pages as DuckDB can count.
MOST_PAGES = 1_000_000
Page = Annotated[int, Query(ge=1, le=MOST_PAGES, alias="page")]


def drawn(handler: Callable[P, Response]) -> Callable[P, Response]:
    """A handler whose page counts on no damaged file: what was drawn before one was noticed may have.

    It takes its tables as ``tables``.
    """

    @wraps(handler)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Response:
        tables = kwargs["tables"]
        assert isinstance(tables, Tables)  # noqa: S101 - for the type checker
        before = tables.damaged()
        try:
            found = handler(*args, **kwargs)
        except Exception:
            if tables.damaged() == before:
                raise
            return handler(*args, **kwargs)
        return found if tables.damaged() == before else handler(*args, **kwargs)

    return draw
