"""The program that decodes, in a process of its own: what its libraries do with hostile bytes costs that one image.

`data.workers` starts it by its file. It answers messages on stdin with messages on stdout until stdin ends.
"""

import json
import os
import queue
import resource
import signal
import sys
import threading
import types
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from data.limits import Limits
    from data.preprocessing import Preprocessing

#: Address space in bytes: enough for the largest image that may be allowed, too little to bring a machine down.
MEMORY = 8 << 30


def serve(requests: int, answers: int) -> None:
    """Answer requests in order; the next one is read while one is being worked on.

    Args:
        requests, answers: file descriptors.
    """
    from data.messages import BUFFER, read_message, write_message

    waiting: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()

    def read() -> None:
        with open(requests, "rb", BUFFER) as pipe:
            try:
                while True:
                    waiting.put(read_message(pipe))
            except EOFError:
                waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    write_message(answers, b"ready")
    while (request := waiting.get()) is not None:
        head, content = request
        question = _question(head)
        # Not handled: only the system itself can stop a library that has lost its way.
        signal.setitimer(signal.ITIMER_REAL, question.limits.seconds)
        fields, result = _answer(question, content)
        signal.setitimer(signal.ITIMER_REAL, 0)
        del request, content
        write_message(answers, json.dumps(fields).encode(), result)


class _Question(NamedTuple):
    limits: "Limits"
    preprocessing: "Preprocessing | None"
    side_px: int | None


@lru_cache(maxsize=1)
def _question(head: bytes) -> _Question:
    from data.limits import Limits
    from data.preprocessing import Preprocessing

    fields = json.loads(head)
    wanted = fields.get("preprocessing")
    return _Question(Limits(**fields["limits"]), wanted and Preprocessing(**wanted), fields.get("side_px"))


def _answer(question: _Question, content: bytes) -> tuple[dict[str, Any], bytes]:
    from data.errors import ImageError
    from data.images import read_header, thumbnail
    from data.preprocessing import read_pixels

    try:
        if question.preprocessing is not None:
            return {}, read_pixels(content, question.preprocessing, question.limits).tobytes()
        if question.side_px is not None:
            return {}, thumbnail(content, question.side_px, question.limits)
        return {"header": read_header(content, question.limits)}, b""
    except ImageError as error:
        return {"reason": error.reason, "detail": str(error)[:1000]}, b""
    except MemoryError:
        return {"reason": "too_large", "detail": "decoding needs too much memory"}, b""


def _confine() -> int:
    """Limit this process, and give the file descriptor for answers, which no library can write into by accident."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C belongs to the parent; the alarm must strike whatever that one does with its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    # Without data/__init__.py, which loads pandas and pyarrow: a second, and 100 MB for each process.
    package = types.ModuleType("data")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules["data"] = package
    serve(0, _confine())
