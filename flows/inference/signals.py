"""How a command ends on a signal: at once, and tidily."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

#: Seconds for tidying up: a container's runtime kills the process after ten.
_TIDY_S = 8

#: Seconds in which a repeated signal counts as the same one: process managers signal a process and its group.
_SAME_S = 0.5

#: Signals that process number 1 passes on.
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """In this block SIGTERM raises SystemExit(143), so that the block cleans up; elsewhere it kills the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def asked_to_end() -> Iterator[threading.Event]:
    """In this block the first Ctrl-C or SIGTERM sets the event, and the work at hand goes on; a later one ends it."""
    asked, asked_s = threading.Event(), float("inf")
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked_s
        if time.monotonic() - asked_s > _SAME_S and callable(handler := before[number]):
            handler(number, frame)
        if not asked.is_set():
            asked_s = time.monotonic()
            asked.set()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    # A second signal would interrupt the tidying up.
    signal.signal(number, signal.SIG_IGN)
    stop_decoders()
    # Another thread may wait for a network, and the exception may be lost in code that cannot raise one.
    watchdog = threading.Timer(_TIDY_S, os._exit, [128 + number])
    watchdog.daemon = True
    watchdog.start()
    raise SystemExit(128 + number)


@contextmanager
def keeping(what: Callable[[], str]) -> Iterator[None]:
    """If a signal ends this block, attach `what()` to the exception, for `kept` to find: it says what is kept.

    An empty text attaches nothing.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        # Saying what is kept is not worth another error.
        with suppress(Exception):
            if said := what():
                ended.add_note(said)
        raise


def kept(ended: BaseException) -> str:
    """The note of the innermost `keeping` block that a signal ended; empty if there is none."""
    error: BaseException | None = ended
    while error is not None:
        if notes := getattr(error, "__notes__", []):
            return str(notes[0])
        error = error.__cause__ or error.__context__
    return ""


def stop_decoders() -> None:
    """Stop the decoders before this process ends: it waits for its threads, which wait for decoders."""
    if "nelbo.data.decoder.workers" in sys.modules:
        sys.modules["nelbo.data.decoder.workers"].stop()


def leave_init() -> None:
    """If this is process number 1, as in a container, go on in a child and act as its init.

    The system does not deliver signals to process 1 without a handler, and makes it the parent of all orphans. The
    function returns in the child. The parent passes signals on, reaps orphans, and ends with the child's exit status,
    which ends all remaining processes.
    """
    if os.getpid() != 1:
        return
    child = os.fork()
    if not child:
        _take_terminal()
        return
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _frame: _pass_on(child, number))
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _take_terminal() -> None:
    """Move to a process group of its own, in the foreground, so that Ctrl-C arrives only once."""
    os.setpgid(0, 0)
    if os.isatty(0):
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)
