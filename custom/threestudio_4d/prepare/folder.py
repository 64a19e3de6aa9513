"""Whether a clip may be written to a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..data.frame_sources import SIDE_FILES, name_some
from ..errors import UserError

_FRAME = re.compile(r"\d+\.png")


def check_target(out: Path, inputs: list[Path], overwrite: bool, record: str = "prepare.json") -> None:
    """Raise a ``UserError`` unless the clip can be written to ``out``.

    ``overwrite`` replaces an earlier clip, known by its ``record``, and never a folder that holds anything else.
    """
    if not os.path.exists(out):
        parent = next(place for place in out.absolute().parents if os.path.exists(place))
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"{out} cannot be made: {parent} is {'not writable' if parent.is_dir() else 'a file'}.")
    if any(out.resolve() == place.resolve() or out.resolve() in place.resolve().parents for place in inputs):
        raise UserError(f"{out} holds the input. Give another folder for the result.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder for the result.")
    entries = [entry.name for entry in out.iterdir()] if out.is_dir() else []
    if not entries:
        return
    if not overwrite:
        raise UserError(f"{out} is not empty. Give another folder, or --overwrite to replace an earlier result.")
    strange = [name for name in entries if name not in SIDE_FILES and not _FRAME.fullmatch(name)]
    if strange or record not in entries:
        found = name_some(strange) if strange else f"no {record}"
        raise UserError(
            f"{out} does not look like an earlier result ({found}), so --overwrite leaves it alone. Give another "
            "folder."
        )
