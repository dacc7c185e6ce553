"""The program that decodes, in a process of its own: whatever hostile bytes do to its libraries costs one image only.

`workers` starts it as a script. It answers messages on stdin with messages on stdout until stdin ends.
"""

import json
import os
import resource
import signal
import sys
import types
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nelbo.data.decoder.limits import Limits
    from nelbo.data.decoder.preprocessing import Preprocessing
    from nelbo.data.decoder.samples import Range
    from nelbo.data.sources.files import Folder

#: Address space in bytes: enough for the largest image that may be allowed, too little to bring a machine down.
MEMORY = 8 << 30

#: A decoder that nobody has stopped ends after this many times the seconds that an image may take.
ALONE = 10


def serve(requests: int, answers: int) -> None:
    """Answer requests in order.

    Args:
        requests, answers: file descriptors.
    """
    from nelbo.data.decoder.messages import BUFFER, read_message, write_messages

    write_messages(answers, [(b"ready", b"")])
    with open(requests, "rb", BUFFER) as pipe:
        while True:
            try:
                head, content = read_message(pipe)
            except EOFError:
                return
            question = _question(head)
            # The parent keeps the time. Without a parent, only the system itself can stop a library that hangs.
            signal.setitimer(signal.ITIMER_REAL, ALONE * question.limits.seconds)
            fields, pieces = _answer(question, content)
            signal.setitimer(signal.ITIMER_REAL, 0)
            write_messages(answers, [(json.dumps(fields).encode(), *pieces)])


class _Question(NamedTuple):
    """What is asked of each file.

    whole: whether the picture at its own resolution is wanted, too, for tiles.
    shown: the longer side of a thumbnail; small: of a small copy; each with the range for images of more than 8 bits.
    mask: whether the places that a mask marks as defects are wanted.
    root: the local folder that the file is in; None where its contents are sent.
    """

    limits: "Limits"
    preprocessing: "Preprocessing | None"
    whole: bool
    shown: "tuple[int, Range | None] | None"
    small: "tuple[int, Range | None] | None"
    extent: bool
    mask: bool
    root: "Folder | None"


@lru_cache(maxsize=1)
def _question(head: bytes) -> _Question:
    from nelbo.data.decoder.limits import Limits
    from nelbo.data.decoder.preprocessing import Preprocessing
    from nelbo.data.sources.files import Folder
    from nelbo.data.sources.names import path_of

    fields = json.loads(head)
    wanted, root = fields.get("preprocessing"), fields.get("root")
    if wanted and wanted.get("frame"):
        import cv2

        # There is one decoder for each core already.
        cv2.setNumThreads(1)
    return _Question(
        Limits(**fields["limits"]),
        wanted and Preprocessing(**wanted),
        fields.get("whole", False),
        fields.get("shown"),
        fields.get("small"),
        fields.get("extent", False),
        fields.get("mask", False),
        None if root is None else Folder(path_of(root)),
    )


def _answer(question: _Question, content: bytes) -> tuple[dict[str, Any], list[Any]]:
    """The fields of the answer for a file, and raw bytes in pieces, so that a large picture is not copied."""
    from nelbo.data.errors import ImageError
    from nelbo.data.sources.reading import read_checked, refusal

    facts: dict[str, Any] = {}
    if question.root is not None:
        path, image_id = json.loads(content)
        facts, content = read_checked(question.root, path, image_id, question.limits.size_bytes)
        if "reason" in facts:
            return facts, []
    try:
        found, pieces = _decoded(question, content)
    except ImageError as error:
        found, pieces = refusal(error.reason, str(error)), []
    except MemoryError:
        found, pieces = refusal("too_large", "decoding needs too much memory"), []
    return facts | found, pieces


def _decoded(question: _Question, content: bytes) -> tuple[dict[str, Any], list[Any]]:
    from nelbo.data.decoder.images import defect_mask, float_extent, read_header, small_picture, thumbnail
    from nelbo.data.decoder.preprocessing import read_picture, read_whole

    if question.preprocessing is not None:
        if question.whole:
            fitted, levels = read_whole(content, question.preprocessing, question.limits)
            beside = {"whole": [levels.shape, levels.dtype.name]}
        else:
            fitted, levels, beside = read_picture(content, question.preprocessing, question.limits), None, {}
        said = fitted._asdict()
        bands, overview = said.pop("bands"), said.pop("overview")
        found = {"modes": [band.mode for band in bands], **said}
        # Sent as they are: numbers in [0, 1] would take four times the bytes.
        return found | beside, [
            *(band.tobytes() for band in (*bands, *overview)),
            *([] if levels is None else [levels.data]),
        ]
    if question.shown is not None:
        return {}, [thumbnail(content, question.shown, question.limits)]
    if question.small is not None:
        found, pixels = small_picture(content, question.small, question.limits)
        return found, [pixels]
    if question.extent:
        return {"extent": float_extent(content, question.limits)}, []
    if question.mask:
        found, pixels = defect_mask(content, question.limits)
        return found, [pixels]
    return {"header": read_header(content, question.limits)}, []


def _confine() -> int:
    """Limit this process; the file descriptor for answers, to which no library can write by accident."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The parent handles Ctrl-C; the alarm must work however the parent has set its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    # Take the modules beside this file, whatever the search path has under these names.
    for name, folder in (("nelbo", 2), ("nelbo.data", 1)):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(__file__).parents[folder])]
        sys.modules[name] = package
    serve(0, _confine())
