"""The bytes of a file that is to be decoded, and what is known of it when they are read."""

import hashlib
from typing import Any

from nelbo.data.errors import CHANGED, ImageError
from nelbo.data.sources.files import Root


def read_checked(root: Root, path: str, image_id: str | None, max_bytes: int) -> tuple[dict[str, Any], bytes]:
    """A file's facts and contents.

    Args:
        image_id: hex SHA-256 that the contents must have; None takes any.
        max_bytes: longer files are not read.

    Returns:
        ``image_id`` and the fields of its stamp, as far as they are known; and ``reason`` and ``detail``
        where the file is not to be decoded.
    """
    try:
        content, stamp = root.read(path, max_bytes)
    except ImageError as error:
        return refusal(error.reason, str(error)), b""
    except FileNotFoundError as error:
        # A file with an id was there before: it has changed as much as a file can.
        return refusal("unreadable" if image_id is None else CHANGED, str(error)), b""
    except (OSError, ValueError) as error:
        # ValueError: a path with a zero byte.
        return refusal("unreadable", str(error)), b""
    facts = {"image_id": hashlib.sha256(content).hexdigest(), **stamp._asdict(), "size_bytes": len(content)}
    if image_id not in (None, facts["image_id"]):
        facts |= refusal(CHANGED, f"its contents are no longer {image_id}")
    return facts, content


def refusal(reason: str, detail: str) -> dict[str, Any]:
    """The fields that say why there are no pixels."""
    return {"reason": reason, "detail": detail[:1000]}
