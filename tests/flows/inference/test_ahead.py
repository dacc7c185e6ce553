"""`ahead` makes one item in advance, whatever happens to the maker or the user."""

import subprocess
import sys
import threading
from collections.abc import Generator

import pytest

from nelbo.flows.inference.ahead import ahead

WAIT_S = 30


def test_the_next_item_is_made_while_one_is_used_and_no_more() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Generator[int, None, None]:
        for i, event in enumerate(made):
            event.set()
            yield i

    for i in (found := ahead(items())):
        # Without `ahead` this would time out: the next item is requested only after this one is done.
        assert i == 3 or made[i + 1].wait(WAIT_S)
        # Only one item is made ahead, though the thread has time to make more.
        assert not any(event.wait(0.02) for event in made[i + 2 :])
    assert list(found) == []


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), KeyboardInterrupt()])
def test_an_error_of_the_maker_comes_after_what_was_made_before_it(error: BaseException) -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise error

    found = ahead(items())
    assert next(found) == 1
    # A generator cannot raise StopIteration: Python turns it into a RuntimeError.
    with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
        next(found)
    assert list(found) == []


@pytest.mark.parametrize("how", ["close", "raise"])
def test_a_user_who_stops_waits_for_the_item_that_is_being_made_and_the_maker_is_closed(how: str) -> None:
    making, go_on, ended = threading.Event(), threading.Event(), list[str]()

    def items() -> Generator[int, None, None]:
        try:
            yield 1
            making.set()
            assert go_on.wait(WAIT_S)
            ended.append("made")
            yield 2
        finally:
            ended.append("closed")

    found = ahead(items())
    next(found)
    assert making.wait(WAIT_S)
    threading.Timer(0.1, go_on.set).start()
    if how == "close":
        found.close()
    else:
        with pytest.raises(OSError, match="disk"):
            found.throw(OSError("disk"))
    assert ended == ["made", "closed"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_a_signal_while_the_thread_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal raises its exception when the thread runs but the executor has not registered it yet."""
    making, go_on, ended = threading.Event(), threading.Event(), list[str]()

    def items() -> Generator[int, None, None]:
        making.set()
        assert go_on.wait(WAIT_S)
        ended.append("made")
        try:
            yield 1
        finally:
            ended.append("closed")

    start = threading.Thread.start

    def told_to_end(thread: threading.Thread) -> None:
        start(thread)
        monkeypatch.undo()
        assert making.wait(WAIT_S)
        threading.Timer(0.1, go_on.set).start()
        raise SystemExit(143)

    monkeypatch.setattr(threading.Thread, "start", told_to_end)
    with pytest.raises(SystemExit):
        next(ahead(items()))
    assert ended == ["made", "closed"]


def test_steps_ahead_of_one_another_end_together() -> None:
    ended = list[str]()

    def first() -> Generator[int, None, None]:
        try:
            yield from range(100)
        finally:
            ended.append("first")

    def second() -> Generator[int, None, None]:
        inner = ahead(first())
        try:
            for i in inner:
                yield 10 * i
        finally:
            inner.close()
            ended.append("second")

    found = ahead(second())
    assert [next(found), next(found)] == [0, 10]
    found.close()
    assert ended == ["first", "second"]


def test_an_abandoned_iterator_does_not_keep_the_interpreter_alive() -> None:
    code = (
        "import itertools; from nelbo.flows.inference.ahead import ahead; "
        "left = ahead(i for i in itertools.count()); next(left)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
