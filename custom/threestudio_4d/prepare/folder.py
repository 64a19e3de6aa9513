"""Whether a clip may be written to a folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from ..data.frame_source import name_some, natural_key
from ..errors import UserError
from ..paths import is_text, regular_file

_WRITTEN_BESIDE = {
    "prepare.json": {"contact_sheet.png", "preview.mp4", "prepare.json"},
    "generate.json": {"contact_sheet.png", "clip.gif", "clip.mp4", "generate.json"},
}


def check_target(out: Path, inputs: list[Path], overwrite: bool, record: str = "prepare.json") -> None:
    """Raise a ``UserError`` unless the clip can be written to ``out``.

    ``overwrite`` replaces an earlier clip, known by its ``record``, and never a folder that holds anything else.
    """
    if not is_text(out):
        raise UserError(f"{str(out)!r} is not UTF-8, so videos cannot be written there. Give another folder.")
    if not os.path.exists(out):
        parent = next(place for place in out.absolute().parents if os.path.exists(place))
        if not parent.is_dir():
            raise UserError(f"{out} cannot be made: {parent} is a file.")
        try:  # permissions alone do not tell: root may write to /proc, which takes nothing
            os.rmdir(tempfile.mkdtemp(prefix=".try-", dir=parent))
        except OSError as error:
            raise UserError(f"{out} cannot be made: {parent} is not writable ({error.strerror}).") from error
    if any(out.resolve() == place.resolve() or out.resolve() in place.resolve().parents for place in inputs):
        raise UserError(f"{out} holds the input. Give another folder for the result.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder for the result.")
    entries = [entry.name for entry in out.iterdir()] if out.is_dir() else []
    if not entries:
        return
    if not overwrite:
        raise UserError(f"{out} is not empty. Give another folder, or --overwrite to replace an earlier result.")
    own = _own_names(out / record)
    strange = [entry.name for entry in out.iterdir() if entry.name not in own or not entry.is_file()]
    if strange or not own:
        found = name_some(sorted(strange, key=natural_key)) if own else f"no {record}"
        raise UserError(
            f"{out} does not look like an earlier result ({found}), so --overwrite leaves it alone. Give another "
            "folder."
        )


def _own_names(record: Path) -> set[str]:
    """The names of all files of the result that ``record`` tells of; none if it is not one of ours."""
    try:
        told = json.loads(regular_file(record).read_text(encoding="utf-8"))
        if not told["made_by"].startswith("threestudio_4d."):
            return set()
        return {f"{k}.png" for k in range(told["frames"])} | _WRITTEN_BESIDE[record.name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
