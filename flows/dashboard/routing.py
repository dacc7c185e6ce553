"""What all routes share: the workspace's tables, and drawing a page again when a file turns out to be damaged."""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec

from fastapi import Depends, Query, Request, Response

from nelbo.flows.dashboard.tables import Tables

P = ParamSpec("P")


def _tables(request: Request) -> Tables:
    tables: Tables = request.app.state.tables
    return tables


#: The workspace comes from the command line, so visitors cannot name another one.
Asked = Annotated[Tables, Depends(_tables)]
#: Highest page number of a table: DuckDB's offsets are limited, and no table has as many pages.
MOST_PAGES = 1_000_000
Page = Annotated[int, Query(ge=1, le=MOST_PAGES, alias="page")]


def drawn(handler: Callable[P, Response]) -> Callable[P, Response]:
    """A handler that draws its page again if a damaged file is noticed meanwhile, which the first page may rely on.

    The handler takes its tables as ``tables``.
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
