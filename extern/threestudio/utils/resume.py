"""From what the user says after ``resume=`` to a checkpoint file and to the folder in which the run goes on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from threestudio.utils.checkpoint_io import LAST_NAME, load_whole
from threestudio.utils.errors import CheckpointError


@dataclass
class Resume:
    """``checkpoint``: the file. ``trial``: the folder to go on in; ``None`` leaves the choice to the config."""

    checkpoint: str
    trial: Path | None = None

    def overrides(self) -> dict[str, Any]:
        """Top-level config values that lead to ``trial`` (the folder's own name stands for tag and timestamp)."""
        if self.trial is None:
            return {}
        return {
            "exp_root_dir": os.path.relpath(self.trial.parent.parent),
            "name": self.trial.parent.name,
            "tag": self.trial.name,
            "timestamp": "",
        }


def resolve_resume(value: str, config_path: str, overrides: list[str]) -> Resume:
    """Find the checkpoint that ``resume=<value>`` means.

    Args:
        value: a checkpoint file (the config then decides about the folder, as in threestudio), the folder of an earlier
            run or its ``ckpts`` folder, or ``last``: the newest run with this config's name and tag.
        config_path: the YAML file, needed for ``last``.
        overrides: ``key=value`` arguments of the command line, needed for ``last``.

    Raises:
        CheckpointError: nothing suitable is there.
    """
    path = Path(value)
    if path.is_file():
        return Resume(str(path))
    if path.is_dir():
        return _from_folder(path)
    if value == "last":
        return _from_folder(_newest_trial(config_path, overrides))
    raise CheckpointError(
        f"resume={value}: there is no such file or folder. Give a checkpoint file, the folder of a run, or resume=last."
    )


def check_resumable(path: str, training: bool) -> tuple[int, int]:
    """Open the checkpoint before anything else happens; return its epoch and global step.

    Raises:
        CheckpointError: it is unreadable, unsafe, or (``training``) has no optimizer state to go on from.
    """
    content = load_whole(path)
    missing = [key for key in ("loops", "optimizer_states") if key not in content]
    if training and missing:
        raise CheckpointError(
            f"'{path}' holds weights only (no {' and no '.join(missing)}), so training cannot go on from it. "
            f"To start a new run from these weights use system.weights={path}."
        )
    return int(content["epoch"]), int(content["global_step"])


def _from_folder(folder: Path) -> Resume:
    folder = folder.resolve()
    trial = folder.parent if folder.name == "ckpts" else folder
    for place in (trial / "ckpts", folder):
        if (place / LAST_NAME).is_file():
            return Resume(str(place / LAST_NAME), trial)
        others = sorted(place.glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
        if others:
            return Resume(str(others[-1]), trial)
    raise CheckpointError(f"resume={folder}: the folder has no checkpoint (looked for ckpts/{LAST_NAME} and *.ckpt).")


def _newest_trial(config_path: str, overrides: list[str]) -> Path:
    names = {"exp_root_dir": "outputs", "name": "default", "tag": ""}
    try:
        config = OmegaConf.merge(OmegaConf.load(config_path), OmegaConf.from_dotlist(overrides))
        names.update({key: str(config[key]) for key in names if config.get(key) is not None})
    except (OmegaConfBaseException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"resume=last: name and tag of the run are not known ({reason}).") from error
    prefix = Path(names["exp_root_dir"], names["name"], names["tag"] or "@")
    candidates = [
        folder / "ckpts" / LAST_NAME
        for folder in prefix.parent.glob("*")
        if folder.name == prefix.name or folder.name.startswith(f"{names['tag'].rsplit('/')[-1]}@")
    ]
    candidates = [file for file in candidates if file.is_file()]
    if not candidates:
        raise CheckpointError(f"resume=last: no run '{prefix}*' has a {LAST_NAME}. Give the folder of a run instead.")
    return max(candidates, key=lambda file: file.stat().st_mtime).parent.parent
