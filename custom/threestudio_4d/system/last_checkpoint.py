"""Training again in a folder writes its ``last.ckpt`` anew, whichever release of Lightning and whose launcher it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def overwrite_last_checkpoint(trainer: Any) -> None:
    """Let a trainer's checkpoint callbacks take the ``last.ckpt`` in their folder for their own.

    Otherwise Lightning leaves it there and writes ``last-v1.ckpt``, so that an export afterwards takes the old one.
    (``enable_version_counter: false`` does the same, but only from Lightning 2.1 on.)
    """
    for callback in trainer.checkpoint_callbacks:
        if not getattr(callback, "save_last", False):
            continue
        last = Path(callback.dirpath) / f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
        if last.exists():
            callback.last_model_path = str(last)
