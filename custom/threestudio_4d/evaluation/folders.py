"""Find the frames of a prediction and of its ground truth, and pair them or refuse.

Layouts, told apart by looking: one object's folder of views, ``<view>/<frame>.png``; a folder of objects,
``<object>/<view>/<frame>.png``; and the same with the ``save/eval`` of a trial between object and view. Nothing is
guessed: what has no partner, a gap in the numbering or another number of frames ends with an error that names it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .novel_views import in_order
from .protocols import REFERENCE_VIEW

#: where a trial keeps its evaluation frames
TRIAL_FRAMES = Path("save", "eval")


@dataclass(frozen=True)
class Pair:
    """The frames of one view of one object, predicted and true, in order; and the input's, if the truth has it."""

    object: str
    view: str
    predicted: tuple[Path, ...]
    truth: tuple[Path, ...]
    reference: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.truth)


def list_frames(folder: Path) -> tuple[Path, ...]:
    """Files ``0.png``, ``1.png`` ... (zeros in front allowed) of a folder, in order.

    Raises:
        UserError: no frames, a PNG without a number, a number twice, or a gap.
    """
    numbers: dict[int, Path] = {}
    for path in sorted(folder.glob("*.png")):
        if not path.stem.isdecimal():
            raise UserError(f"{path} is not numbered: {folder} must hold frames 0.png, 1.png, ... and no other PNG")
        other = numbers.setdefault(int(path.stem), path)
        if other is not path:
            raise UserError(f"{other} and {path.name} are the same frame number: take one of them away")
    if not numbers:
        raise UserError(f"{folder} holds no frames 0.png, 1.png, ...")
    missing = list(itertools.islice((i for i in range(max(numbers)) if i not in numbers), 6))
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise UserError(f"{folder} has frames up to {max(numbers)} but lacks frame {some}: number them from 0, no gap")
    return tuple(numbers[index] for index in sorted(numbers))


def find_objects(root: Path) -> dict[str, Path]:
    """Name -> folder of views of every object below ``root``; one unnamed object (``""``) if it is a folder of views.

    Raises:
        UserError: the folder is missing, or holds neither.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    views = _views_folder(root)
    if views is not None:
        return {"": views}
    found = {path.name: _views_folder(path) for path in _subfolders(root)}
    objects = {name: folder for name, folder in found.items() if folder is not None}
    if not objects:
        raise UserError(
            f"{root} holds no frames: expected <view>/<frame>.png, <object>/<view>/<frame>.png, or trials with "
            f"{TRIAL_FRAMES}/<view>/<frame>.png"
        )
    return objects


def pair_folders(
    predicted: Path,
    truth: Path,
    objects: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    default_views: Sequence[str] | None = None,
) -> list[Pair]:
    """Every clip to compare, by object and then in the order of the views.

    Args:
        predicted, truth: folders in one of the layouts above.
        objects: only these; by default all, and then both sides must have the same.
        views: only these; by default ``default_views``, or (None) all of the truth's but the input, and then both
            sides must have the same.

    Raises:
        UserError: anything that does not pair up, with its name.
    """
    pairs = []
    for name, (ours, theirs) in _pair_objects(predicted, truth, objects).items():
        for view in _choose_views(name, ours, theirs, views, default_views):
            frames = list_frames(ours / view), list_frames(theirs / view)
            if len(frames[0]) != len(frames[1]):
                raise UserError(
                    f"{ours / view} has {len(frames[0])} frames, its ground truth {theirs / view} has "
                    f"{len(frames[1])}: both must show the same moments"
                )
            reference = theirs / REFERENCE_VIEW
            pairs.append(Pair(name, view, *frames, list_frames(reference) if reference.is_dir() else ()))
    return pairs


def digest(pairs: Sequence[Pair], side: str) -> str:
    """SHA-256 over ``<object>/<view>/<frame number>`` and the content of every file compared, ``predicted``,
    ``truth`` or ``reference``: equal for equal frames, wherever they lie."""
    total = hashlib.sha256()
    for pair in sorted(pairs, key=lambda pair: (pair.object, pair.view)):
        for index, path in enumerate(getattr(pair, side)):
            total.update(f"{pair.object}/{pair.view}/{index}\n".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _views_folder(folder: Path) -> Path | None:
    """The folder itself or the ``save/eval`` in it, whichever holds folders of PNGs; None if neither does."""
    for candidate in (folder / TRIAL_FRAMES, folder):
        if candidate.is_dir() and any(next(path.glob("*.png"), None) for path in _subfolders(candidate)):
            return candidate
    return None


def _pair_objects(predicted: Path, truth: Path, wanted: Sequence[str] | None) -> dict[str, tuple[Path, Path]]:
    ours, theirs = find_objects(predicted), find_objects(truth)
    if "" in theirs:
        theirs = {truth.resolve().name: theirs[""]}
    if wanted is not None:
        absent = [name for name in wanted if name not in theirs]
        if absent or not wanted:
            raise UserError(f"{truth} has no object {', '.join(absent)}; it has {', '.join(theirs)}")
        theirs = {name: theirs[name] for name in dict.fromkeys(wanted)}
    if "" in ours:
        if len(theirs) != 1:
            raise UserError(
                f"{predicted} is one object's folder of views, {truth} has {len(theirs)} objects "
                f"({', '.join(theirs)}): say which one it shows with --objects NAME, or give that object's folder"
            )
        ours = {next(iter(theirs)): ours[""]}
    missing = [name for name in theirs if name not in ours]
    if missing:
        raise UserError(
            f"{predicted} lacks {', '.join(missing)} (it has {', '.join(ours)}); to compare fewer objects name them "
            "with --objects"
        )
    extra = [name for name in ours if name not in theirs]
    if extra and wanted is None:
        raise UserError(
            f"{predicted} has {', '.join(extra)}, for which {truth} has no ground truth (it has {', '.join(theirs)}); "
            "to leave them out name the others with --objects"
        )
    return {name: (ours[name], theirs[name]) for name in theirs}


def _choose_views(
    name: str, ours: Path, theirs: Path, views: Sequence[str] | None, default_views: Sequence[str] | None
) -> list[str]:
    have_ours, have_theirs = ({path.name for path in _subfolders(folder)} for folder in (ours, theirs))
    wanted = views if views is not None else default_views
    if wanted is None:
        wanted = in_order(have_theirs - {REFERENCE_VIEW})
        extra = sorted(have_ours - have_theirs - {REFERENCE_VIEW})
        if extra:
            raise UserError(
                f"{ours} has views {', '.join(extra)} that the ground truth {theirs} lacks (it has "
                f"{', '.join(wanted)}); name those to compare with --views"
            )
    if not wanted:
        raise UserError(f"{name}: no views to compare; name them with --views")
    for side, folder, have in (("prediction", ours, have_ours), ("ground truth", theirs, have_theirs)):
        missing = [view for view in wanted if view not in have]
        if missing:
            raise UserError(
                f"{name}: the {side} {folder} lacks view {', '.join(missing)} (it has {', '.join(sorted(have))}); "
                "to compare other views name them with --views"
            )
    return list(dict.fromkeys(wanted))
