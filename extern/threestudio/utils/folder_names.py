"""Texts as names of folders."""

import hashlib
import os
import re

__all__ = ["folder_name"]

MAX_BYTES = 200  # file systems take 255; the timestamp and names made from this one need some


def folder_name(text: str) -> str:
    """``text`` as the name of one folder: separators and control characters become ``_``, a long one is cut.

    What is cut off is told apart by a hash. The result may be empty.

    Raises:
        ValueError: the name would be ``.`` or ``..``.
    """
    name = re.sub(r"[/\\\x00-\x1f\x7f]", "_", text).strip()
    if name in (".", ".."):
        raise ValueError(f"'{text}' means a folder that is there already")
    encoded = os.fsencode(name)
    if len(encoded) > MAX_BYTES:
        name = encoded[: MAX_BYTES - 9].decode(errors="ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:8]
    return name
