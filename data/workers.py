"""Decoder processes: kept for the next images, replaced when one dies."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from fcntl import fcntl
from pathlib import Path
from typing import Any, NamedTuple

from data.messages import BUFFER, read_message, write_message

#: The decoder's own file, so that it comes from where this one does.
COMMAND = (sys.executable, "-P", "-W", "ignore", str(Path(__file__).with_name("decoder.py")))
#: Questions that a worker has at a time: the next one is there when it has answered.
IN_FLIGHT = 2

_SET_PIPE_SIZE, _PIPE_BYTES = 1031, 1 << 20


class Request(NamedTuple):
    """A question to a decoder: what is wanted, as JSON, and the bytes of a file."""

    head: bytes
    content: bytes


class Answer(NamedTuple):
    """What a decoder said: ``header``, or ``reason`` and ``detail``; and bytes of pixels."""

    fields: dict[str, Any]
    content: bytes = b""

    @classmethod
    def refusal(cls, reason: str, detail: str) -> "Answer":
        """Why there are no pixels."""
        return cls({"reason": reason, "detail": detail})


class Worker:
    """A decoder process and the questions that it has not answered; of one thread at a time."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()
        self._tried_again: Request | None = None
        self._start()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid

    def ask(self, request: Request) -> None:
        """Send a question; at most `IN_FLIGHT` may wait for their answer."""
        self._waiting.append(request)
        self._send(request)

    def answer(self) -> Answer:
        """The answer to the oldest question. A process that dies of it is replaced.

        Raises:
            RuntimeError: no process can be started.
        """
        try:
            head, content = read_message(self._answers)
        except EOFError:
            return self._replace()
        self._waiting.popleft()
        return Answer(json.loads(head), content)

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
        # numpy's threads would take address space, and there is nothing here for them to do.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        questions, self._questions = os.pipe()
        self._reader, answers = os.pipe()
        # The descriptor is closed as such: in a forked child the file object may be locked for ever.
        self._answers = open(self._reader, "rb", BUFFER, closefd=False)  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            COMMAND, stdin=questions, stdout=answers, stderr=subprocess.DEVNULL, env=environment
        )
        os.close(questions)
        os.close(answers)
        _open.add(self)
        with contextlib.suppress(OSError):
            fcntl(self._questions, _SET_PIPE_SIZE, _PIPE_BYTES)
        try:
            read_message(self._answers)
        except EOFError:
            self.close()
            raise RuntimeError(
                f"the decoder does not start: {' '.join(COMMAND)} ended with status {self._process.returncode}. "
                "Run that command to see why."
            ) from None

    def _disconnect(self) -> None:
        os.close(self._questions)
        os.close(self._reader)

    def _send(self, request: Request) -> None:
        # If it has died, that shows when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            write_message(self._questions, *request)

    def _replace(self) -> Answer:
        status = self._process.wait()
        self._disconnect()
        self._start()
        request = self._waiting[0]
        # Not necessarily the image's fault: whoever kills a process may have meant another.
        again = status != -signal.SIGALRM and request is not self._tried_again
        self._tried_again = request if again else None
        if not again:
            self._waiting.popleft()
        for waiting in self._waiting:
            self._send(waiting)
        if again:
            return self.answer()
        if status == -signal.SIGALRM:
            seconds = json.loads(request.head)["limits"]["seconds"]
            return Answer.refusal("timeout", f"decoding took more than {seconds} seconds")
        return Answer.refusal("unreadable", f"the decoder died of it (status {status})")


_open: set[Worker] = set()
_idle: list[Worker] = []


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
    if len(_idle) < (os.cpu_count() or 1):
        _idle.append(worker)
    else:
        worker.close()


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
