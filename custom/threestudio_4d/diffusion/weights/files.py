"""Which files of a network's folder hold its weights, and whether they are whole.

Publishers offer variants of one network: ``model.safetensors`` and ``model.fp16.safetensors``. A folder may hold only
one of them, in one file or in shards.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from ...errors import UserError

VARIANTS = (None, "fp32", "fp16", "bf16")  # in order of preference; others, such as non_ema, are other weights
_NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d+-of-\d+)?(?:\.(?P<variant>fp32|fp16|bf16))?(?:-\d+-of-\d+)?"
    r"\.(?:safetensors|bin)"
)


def weight_files(folder: str | Path) -> tuple[str | None, list[Path]]:
    """The variant to load, None for plain files, and its files: safetensors if there are any, else ``.bin``.

    Raises:
        UserError: there are none.
    """
    folder = Path(folder)
    found: dict[str | None, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (match := _NAME.fullmatch(path.name)) and path.is_file():
            found.setdefault(match["variant"], []).append(path)
    for variant in VARIANTS:
        if variant in found:
            files = found[variant]
            return variant, [path for path in files if path.suffix == ".safetensors"] or files
    raise UserError(f"{folder} holds no weights: neither .safetensors nor .bin files of a network")


def check_weight_file(path: Path) -> None:
    """Raise a ``UserError`` for a file that is truncated or something else, such as the page of a failed download."""
    with path.open("rb") as file:
        start = file.read(64)
    advice = "Fetch it again."
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not weights. {advice}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is no complete safetensors file ({error}). {advice}") from error
    elif not zipfile.is_zipfile(path) and not start.startswith(b"\x80"):  # the second: torch before 1.6
        raise UserError(f"{path} is no complete PyTorch file. {advice}")


def read_config(folder: str | Path, name: str = "config.json") -> dict:
    """A JSON file of a part.

    Raises:
        UserError: it is not there, or is no JSON object.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise UserError(f"{path} is missing: the part '{path.parent.name}' needs it beside its weights")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no settings. Fetch it again.")
    return content
