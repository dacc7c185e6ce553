"""How a command ends when it is told to: at once, and tidily."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: Seconds for tidying up: a container's runtime kills after ten.
_TIDY_S = 8

#: What process number 1 passes on.
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit(143) in this block, so that what it has begun is cleaned up; elsewhere it kills."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: FrameType | None) -> None:
    # Once: a second one would tear the tidying.
    signal.signal(number, signal.SIG_IGN)
    stop_decoders()
    # A thread may wait for a network, and this one's exception may be lost where nobody can raise one.
    watchdog = threading.Timer(_TIDY_S, os._exit, [128 + number])
    watchdog.daemon = True
    watchdog.start()
    raise SystemExit(128 + number)


@contextmanager
def keeping(what: Callable[[], str]) -> Iterator[None]:
    """Where this block is ended by a signal, note what of it is kept, for `kept` to find; empty where nothing is."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        # To say what is kept is not worth another error.
        with suppress(Exception):
            if said := what():
                ended.add_note(said)
        raise


def kept(ended: BaseException) -> str:
    """What was noted where a command was ended, by the innermost block; empty without any."""
    error: BaseException | None = ended
    while error is not None:
        if notes := getattr(error, "__notes__", []):
            return str(notes[0])
        error = error.__cause__ or error.__context__
    return ""


def stop_decoders() -> None:
    """When this process is about to end: it waits for its threads, and they for decoders."""
    if "nelbo.data.decoder.workers" in sys.modules:
        sys.modules["nelbo.data.decoder.workers"].stop()


def leave_init() -> None:
    """Where this is process number 1, as in a container: go on in a child, and be its init.

    The system kills process 1 by no signal that it has no handler for, and hands it all orphans to bury. Returns in
    the child; the parent passes signals on, buries, and ends as the child does, and with it all that is left.
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
    """A process group of its own in front, so that Ctrl-C comes once."""
    os.setpgid(0, 0)
    if os.isatty(0):
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)
