"""Decoder processes: kept for the next images, replaced when one dies."""

import atexit
import contextlib
import io
import json
import math
import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fcntl import fcntl
from functools import lru_cache
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from joblib import cpu_count

from nelbo.data.decoder.messages import BUFFER, read_message, write_messages
from nelbo.data.errors import TIMEOUT
from nelbo.data.sources.reading import refusal

#: The decoder's file beside this one, so that both come from the same place.
COMMAND = (sys.executable, "-P", "-W", "ignore", str(Path(__file__).with_name("process.py")))
_SET_PIPE_SIZE, _PIPE_BYTES = 1031, 1 << 20
#: Bytes of questions that are sent before an answer is read: any pipe takes them, so neither side waits for the other.
_AT_ONCE = 1 << 15
#: How many processes are started, each killed before it is ready, before this one gives up.
_STARTS = 5
#: Seconds of one wait for an answer; it counts for no more, however long it was, see `_Answers`.
_TICK = 0.1
#: The decoder keeps up to 64 MiB of freed memory for the next image: getting it anew costs a tenth of the time.
_KEEP = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(16 << 20)}

#: All that a decoder gets of the environment: where Python and its libraries are, and the encoding of file names.
#: Hostile bytes that take over a decoder find no password or key there.
_INHERITED = (
    *("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONCOERCECLOCALE"),
    *("PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE"),
)


class Request(NamedTuple):
    """A question to a decoder: what is wanted, as JSON, and the bytes of a file."""

    head: bytes
    content: bytes


class Answer(NamedTuple):
    """What a decoder said: ``header``, or ``reason`` and ``detail``; and bytes of pixels."""

    fields: dict[str, Any]
    content: bytes = b""


class Worker:
    """A decoder process and the questions that it has not answered; only one thread uses it at a time."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()
        self._tried_again: Request | None = None
        self._start()

    @property
    def pid(self) -> int:
        """The id of the process that runs now."""
        return self._process.pid

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers to questions, in order; a process that dies of a question is replaced for the next one.

        Raises:
            RuntimeError: no process can be started, or this one is about to end.
        """
        if len(requests) > 1 and sum(map(len, chain.from_iterable(requests))) > _AT_ONCE:
            return [answer for request in requests for answer in self.ask([request])]
        self._waiting.extend(requests)
        self._send(requests)
        return [self._answer() for _ in requests]

    def _answer(self) -> Answer:
        self._pipe.seconds = _seconds(self._waiting[0].head)
        try:
            head, content = read_message(self._answers)
        except TimeoutError:
            self._process.kill()
            return self._replace(timed_out=True)
        except EOFError:
            return self._replace()
        self._waiting.popleft()
        return Answer(json.loads(head), content)

    def kill(self) -> None:
        """Kill the process, even while a thread waits for its answer."""
        self._process.kill()

    def close(self) -> None:
        """End the process, once."""
        if self not in _open:
            return
        _open.discard(self)
        self._process.kill()
        self._process.wait()
        self._disconnect()

    def forget(self) -> None:
        """In a forked child: let go of a process that is the parent's."""
        self._process.returncode = 0
        self._disconnect()

    def _start(self) -> None:
        """Start a process and wait until it is ready; if it is killed meanwhile, try another."""
        _check_not_stopped()
        for left in reversed(range(_STARTS)):
            self._spawn()
            try:
                read_message(self._answers)
            except EOFError:
                self.close()
                if left and self._process.returncode < 0:
                    continue
                raise RuntimeError(
                    f"the decoder does not start: {' '.join(COMMAND)} ended with status {self._process.returncode}. "
                    "Run that command to see why."
                ) from None
            return

    def _spawn(self) -> None:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        # numpy's threads would take address space, and there is nothing here for them to do.
        environment |= {"OPENBLAS_NUM_THREADS": "1", **_KEEP}
        questions, self._questions = os.pipe()
        self._reader, answers = os.pipe()
        # The descriptor is closed, not the file object: in a forked child that may be locked for ever.
        self._pipe = _Answers(self._reader, self._is_stopped)
        self._answers = io.BufferedReader(self._pipe, BUFFER)
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            COMMAND, stdin=questions, stdout=answers, stderr=subprocess.DEVNULL, env=environment
        )
        os.close(questions)
        os.close(answers)
        _open.add(self)
        with contextlib.suppress(OSError):
            fcntl(self._questions, _SET_PIPE_SIZE, _PIPE_BYTES)

    def _is_stopped(self) -> bool:
        """Whether somebody has stopped the process (SIGSTOP), so that it cannot be at work."""
        with contextlib.suppress(ChildProcessError):
            options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._process.pid, options) is not None
        return False

    def _disconnect(self) -> None:
        os.close(self._questions)
        os.close(self._reader)

    def _send(self, requests: Iterable[Request]) -> None:
        # If the process has died, reading its answer shows it.
        with contextlib.suppress(BrokenPipeError):
            write_messages(self._questions, requests)

    def _replace(self, timed_out: bool = False) -> Answer:
        _check_not_stopped()
        status = self._process.wait()
        self._disconnect()
        self._start()
        request = self._waiting[0]
        # Not necessarily the image's fault: something else may have killed the process.
        again = not timed_out and request is not self._tried_again
        self._tried_again = request if again else None
        if not again:
            self._waiting.popleft()
        self._send(self._waiting)
        if again:
            return self._answer()
        if timed_out:
            return Answer(refusal(TIMEOUT, f"decoding took more than {_seconds(request.head)} seconds"))
        return Answer(refusal("unreadable", f"the decoder died of it (status {status})"))


class _Answers(io.RawIOBase):
    """The pipe through which answers come; a read waits no longer than `seconds`.

    Only ticks that this process has waited through count, and only if the decoder was not stopped. Time in which both
    stand still (a closed laptop, Ctrl-Z, a machine that is moved) therefore counts as one tick.

    Raises:
        TimeoutError: it was read, and nothing came.
    """

    def __init__(self, pipe: int, is_stopped: Callable[[], bool]) -> None:
        self.seconds = math.inf
        self._pipe, self._is_stopped = pipe, is_stopped
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._poll.poll(1000 * min(_TICK, self.seconds)):
            if not self._is_stopped():
                self.seconds -= _TICK
            if self.seconds <= 0:
                raise TimeoutError
        return os.readv(self._pipe, [buffer])


@lru_cache(maxsize=16)
def _seconds(head: bytes) -> float:
    """The seconds that a question allows for its answer."""
    seconds: float = json.loads(head)["limits"]["seconds"]
    return seconds


_open: set[Worker] = set()
_idle: list[Worker] = []
_stopped = False


@contextlib.contextmanager
def borrowed() -> Iterator[Worker]:
    """A worker of this process, for one thread; kept for the next one unless the block fails."""
    try:
        worker = _idle.pop()
    except IndexError:
        worker = Worker()
    try:
        yield worker
    except BaseException:
        worker.close()
        raise
    if len(_idle) < cpu_count():
        _idle.append(worker)
    else:
        worker.close()


def start_ahead() -> Thread:
    """Start a decoder while other work goes on; the thread that waits until it is ready."""

    def start() -> None:
        # An error comes up again, and is reported, when a decoder is needed.
        with contextlib.suppress(RuntimeError, OSError), borrowed():
            pass

    thread = Thread(target=start, name="decoder", daemon=True)
    thread.start()
    return thread


def stop() -> None:
    """Kill all decoders, and start no more: this process is about to end, and threads wait for answers.

    A signal handler may call it at any time; each thread closes the decoder that it has borrowed.
    """
    global _stopped
    _stopped = True
    for worker in list(_open):
        worker.kill()


def _check_not_stopped() -> None:
    if _stopped:
        raise RuntimeError("images are not decoded any more: this process was told to end.")


@atexit.register
def close_all() -> None:
    """End all decoders of this process."""
    _idle.clear()
    for worker in list(_open):
        worker.close()


def _forget() -> None:
    for worker in _open:
        worker.forget()
    _open.clear()
    _idle.clear()


os.register_at_fork(after_in_child=_forget)
