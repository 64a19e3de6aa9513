"""Find the weights of a diffusion prior: one resolver for every kind of model.

A prior is named by one string in a config, ``pretrained_model_name_or_path``. In order of precedence it is

1. a **path**: a folder in diffusers layout, or an original checkpoint (``.ckpt``, ``.pt``, ``.pth``, ``.safetensors``);
   relative paths are looked up in the working directory, then in the checkout that holds this package;
2. the name of a **built-in prior**, a folder of ``load/priors``;
3. a **hub id** ``owner/name``: taken from the local cache if it is complete there, else downloaded (weights and configs
   only). Without a network, or with ``HF_HUB_OFFLINE=1``, this fails at once.

What is missing is named, with where to get it and where to put it. Nothing here loads a network.

A folder in diffusers layout has one sub-folder for each part and a ``model_index.json``. An entry ``shared`` of the
latter names parts that stand in a sibling folder: ``{"shared": {"text_encoder": "clip-tiny"}}`` means
``../clip-tiny/text_encoder``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import UserError
from ...paths import project_root
from .files import read_config

CHECKPOINT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
BUILT_IN_FOLDER = Path("load", "priors")
INDEX_NAME = "model_index.json"

ZERO123_PARTS = ("unet", "vae", "image_encoder", "clip_camera_projection", "scheduler")

# File or built-in name -> (where it comes from, where it is expected).
_WHERE_TO_GET = {
    "zero123-xl.ckpt": (
        "https://zero123.cs.columbia.edu/assets/zero123-xl.ckpt (15 GB)",
        "load/zero123/zero123-xl.ckpt",
    ),
    "sd-v2.1-base-4view.pt": (
        "https://huggingface.co/MVDream/MVDream (the file sd-v2.1-base-4view.pt)",
        "load/mvdream/sd-v2.1-base-4view.pt",
    ),
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WITHOUT_WEIGHTS = ("scheduler", "tokenizer", "feature_extractor")
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class PriorWeights:
    """Where the weights of a prior are: a ``folder`` in diffusers layout, or one original ``checkpoint`` file."""

    kind: Literal["folder", "checkpoint"]
    path: Path


def read_index(folder: Path) -> dict[str, Any]:
    """``model_index.json`` of a prior's folder; empty if it has none."""
    path = folder / INDEX_NAME
    return read_config(folder, INDEX_NAME) if path.is_file() else {}


def part_path(folder: Path, part: str) -> Path:
    """Where a part of a prior ought to stand: its own sub-folder, or that of the sibling that the index names."""
    owner = read_index(folder).get("shared", {}).get(part)
    return folder / part if owner is None else folder.parent / owner / part


def search_roots() -> list[Path]:
    """Folders that relative names are looked up in: the working directory, the project, the checkout behind a link."""
    roots = [Path.cwd(), project_root(), Path(__file__).resolve().parents[4]]
    return list(dict.fromkeys(root.resolve() for root in roots))


def built_in_priors() -> dict[str, Path]:
    """Name -> folder of every prior that ships with the project."""
    found: dict[str, Path] = {}
    for root in search_roots():
        folder = root / BUILT_IN_FOLDER
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.is_dir() and not path.name.startswith("."):
                found.setdefault(path.name, path)
    return found


def resolve_prior(name: str, parts: Sequence[str] = ()) -> PriorWeights:
    """Turn the name of a prior into a folder or a file that exists.

    Args:
        name: path, built-in name or hub id, as described at the top of this file.
        parts: sub-folders that a folder in diffusers layout must have, e.g. ``("unet", "vae")``.

    Raises:
        UserError: nothing of that name exists, or it is incomplete.
    """
    name = str(name).strip()
    if not name:
        raise UserError("pretrained_model_name_or_path is empty; " + _possibilities())
    for root in search_roots():
        path = root / Path(name).expanduser()
        if path.is_file():
            return PriorWeights("checkpoint", _check_checkpoint(path))
        if path.is_dir():
            return PriorWeights("folder", _check_folder(path, parts))
    built_in = built_in_priors().get(name)
    if built_in is not None:
        return PriorWeights("folder", _check_folder(built_in, parts))
    looks_like_file = name.endswith(CHECKPOINT_SUFFIXES)
    looks_like_path = name.startswith((".", "/", "~", "load/")) or looks_like_file
    if _HUB_ID.fullmatch(name) and not looks_like_path:
        return PriorWeights("folder", _check_folder(_from_hub(name, parts), parts))
    raise UserError(f"no prior weights found for {name!r}. " + _advice(name))


def _check_checkpoint(path: Path) -> Path:
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise UserError(f"{path} is not a checkpoint: expected a file ending in {', '.join(CHECKPOINT_SUFFIXES)}")
    return path


def _check_folder(folder: Path, parts: Sequence[str]) -> Path:
    """The folder itself, after a look at what loading would stumble over much later."""
    missing = [part for part in parts if not part_path(folder, part).is_dir()]
    if missing:
        checkpoints = [path.name for path in sorted(folder.iterdir()) if path.suffix == ".ckpt"]
        hint = f"; to use the checkpoint in it, name the file: {folder / checkpoints[0]}" if checkpoints else ""
        raise UserError(
            f"{folder} is not a complete prior in diffusers layout: it lacks {', '.join(missing)}/ "
            f"(needed: {', '.join(parts)}){hint}"
        )
    for pattern in _WEIGHT_PATTERNS:
        for path in folder.glob(f"*/{pattern}"):
            with path.open("rb") as file:
                if file.read(23) == b"version https://git-lfs":
                    raise UserError(f"{path} is only a pointer to the weights: run 'git lfs pull' in {folder}")
    return folder


def is_offline() -> bool:
    """Whether the user has forbidden the network to the hub client."""
    keys = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE") for key in keys)


def _from_hub(name: str, parts: Sequence[str]) -> Path:
    """Folder of a hub repository in the local cache, downloaded if it is not complete there."""
    from huggingface_hub import snapshot_download

    prefixes = [f"{part}/" for part in parts] or [""]
    texts = [INDEX_NAME, *(f"{prefix}*.{suffix}" for prefix in prefixes for suffix in ("json", "txt", "model"))]
    skip = ["*.fp16.*", "*.non_ema*", "*.ckpt", "*.py"]
    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        if not _incomplete_parts(cached, parts):
            return cached
    except (OSError, ValueError):
        pass  # nothing of it in the cache
    if is_offline():
        raise UserError(
            f"the prior {name!r} is no local path and no built-in prior; as a hub id it is not (completely) in the "
            f"local cache, and HF_HUB_OFFLINE is set. Unset it to download, or {_possibilities()}"
        )
    try:
        wanted = texts + [f"{prefix}*.safetensors" for prefix in prefixes]
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=skip, etag_timeout=10))
        pickles = _incomplete_parts(folder, parts)
        if pickles:  # older exports have .bin files only; the loaders read these with weights_only=True
            wanted = [f"{part}/*.bin" for part in pickles]
            folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=skip, etag_timeout=10))
        variants = _incomplete_parts(folder, parts)
        if variants:  # and some offer half precision only
            wanted = [f"{part}/*{end}" for part in variants for end in (".fp16*.safetensors", ".index.fp16.json")]
            folder = Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=10))
    except Exception as error:  # the hub client raises many types for one cause: the files cannot be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the prior {name!r} is no local path and no built-in prior, and downloading it as a hub id failed: "
            f"{reason}. Check the spelling and the network, or {_possibilities()}"
        ) from error
    return folder


def _incomplete_parts(folder: Path, parts: Sequence[str]) -> list[str]:
    """Parts that are incomplete: they ought to hold weights and do not, or need none and are missing."""
    return [
        part
        for part in parts
        if not (
            (folder / part).is_dir()
            if part in _WITHOUT_WEIGHTS
            else any(any((folder / part).glob(pattern)) for pattern in _WEIGHT_PATTERNS)
        )
    ]


def _possibilities() -> str:
    names = ", ".join(built_in_priors()) or "none found"
    return (
        "give a folder in diffusers layout, an original .ckpt, a hub id 'owner/name', or a built-in prior "
        f"({names}; looked in {' and '.join(str(root / BUILT_IN_FOLDER) for root in search_roots())})"
    )


def _advice(name: str) -> str:
    known = _WHERE_TO_GET.get(Path(name).name)
    if known is not None:
        source, target = known
        return f"Get it from {source} and put it at {target}, or {_possibilities()}"
    return _possibilities()[:1].upper() + _possibilities()[1:]
