"""From what the user says after ``resume=`` to a checkpoint file and to the run that it is of."""

import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from threestudio.launching.own_config import read_own_config, readable
from threestudio.utils.checkpoint_io import LAST_NAME, load_whole
from threestudio.utils.errors import CheckpointError, ConfigError
from threestudio.utils.folder_names import folder_name

#: keys that name the folder of a run, with their defaults
NAMES = {"exp_root_dir": "outputs", "name": "default", "tag": ""}


@dataclass
class Resume:
    """``checkpoint``: the file. ``epoch``, ``step``: what it has reached. ``trial``: the folder of its run; ``None``
    for a file on its own.
    """

    checkpoint: str
    epoch: int = 0
    step: int = 0
    trial: Path | None = None

    def own_config(self) -> DictConfig | None:
        """See :func:`read_own_config`; ``None`` for a file on its own."""
        return None if self.trial is None else read_own_config(self.trial)

    def place(self) -> dict[str, str]:
        """Top-level config values that lead to ``trial`` where the run has kept no config."""
        if self.trial is None:
            return {}
        root = readable(self.trial.parent.parent)
        return {"exp_root_dir": root, "name": self.trial.parent.name, "tag": self.trial.name, "timestamp": ""}


def resolve_resume(value: str, names: DictConfig, training: bool) -> Resume:
    """Find and open the checkpoint that ``resume=<value>`` means, before anything else happens.

    Args:
        value: a checkpoint file, the folder of an earlier run or its ``ckpts`` folder, or ``last``: the newest run with
            this config's name and tag.
        names: the config file with the command line's overrides, needed for ``last``.
        training: the checkpoint must hold what training needs to go on.

    Raises:
        CheckpointError: nothing suitable is there, or the checkpoint is unreadable, unsafe, or (``training``) has no
            optimizer state.
    """
    path = Path(value)
    if path.is_file():
        resume = Resume(str(path), trial=_run_of(path))
    elif path.is_dir():
        resume = _from_folder(path)
    elif value == "last":
        resume = _from_folder(_newest_trial(names))
    else:
        raise CheckpointError(
            f"resume={value}: there is no such file or folder. Give a checkpoint file, the folder of a run, or "
            "resume=last."
        )
    resume.epoch, resume.step = check_resumable(resume.checkpoint, training)
    return resume


def check_resumable(path: str, training: bool) -> tuple[int, int]:
    """Open a checkpoint; return its epoch and global step.

    Raises:
        CheckpointError: see :func:`resolve_resume`; if the file is damaged, the message has the newest one that is not.
    """
    try:
        content = load_whole(path)
    except CheckpointError as error:
        others = [file for file in _checkpoints(Path(path).parent) if file != Path(path)]
        whole = next((file for file in others if _is_whole(file)), None)
        if whole is None:
            raise
        raise CheckpointError(f"{error} The newest whole checkpoint beside it is resume={whole}.") from error
    missing = [key for key in ("loops", "optimizer_states") if key not in content]
    if training and missing:
        raise CheckpointError(
            f"'{path}' holds weights only (no {' and no '.join(missing)}), so training cannot go on from it. "
            f"To start a new run from these weights use system.weights={path}."
        )
    return int(content["epoch"]), int(content["global_step"])


def _run_of(checkpoint: Path) -> Path | None:
    trial = checkpoint.resolve().parent.parent
    return trial if checkpoint.resolve().parent.name == "ckpts" and read_own_config(trial) is not None else None


def _from_folder(folder: Path) -> Resume:
    resolved = folder.resolve()
    trial = resolved.parent if resolved.name == "ckpts" else resolved
    for place in (trial / "ckpts", resolved):
        found = _checkpoints(place)
        if found:
            last = place / LAST_NAME
            checkpoint = last if last in found else next((file for file in found if _is_whole(file)), found[0])
            return Resume(readable(checkpoint), trial=trial)
    raise CheckpointError(f"resume={folder}: the folder has no checkpoint (looked for ckpts/{LAST_NAME} and *.ckpt).")


def _checkpoints(folder: Path) -> list[Path]:
    """Those in a folder, the most advanced first, as far as their names say; else the newest."""

    def order(file: Path) -> tuple[int, float]:
        step = re.search(r"step=(\d+)", file.name)
        return (int(step[1]) if step else -1, file.stat().st_mtime)

    return sorted(folder.glob("*.ckpt"), key=order, reverse=True)


def _is_whole(checkpoint: Path) -> bool:
    try:
        load_whole(checkpoint)
    except CheckpointError:
        return False
    return True


def _newest_trial(names: DictConfig) -> Path:
    try:
        root, name, tag = (str(names.get(key) or default) for key, default in NAMES.items())
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"resume=last: name and tag of the run are not known ({reason}).") from error
    try:
        experiment, tag = Path(root, folder_name(name)), folder_name(tag)
    except ValueError as error:
        raise ConfigError(f"resume=last: {error}.") from error
    trials = [f for f in experiment.glob("*") if (f.name == tag and tag) or f.name.startswith(f"{tag}@")]
    trials = [folder for folder in trials if any(folder.glob("ckpts/*.ckpt"))]
    if not trials:
        raise CheckpointError(
            f"resume=last: no run '{experiment / (tag or '@')}*' has a checkpoint. Give the folder of a run instead."
        )
    return max(trials, key=lambda folder: max(file.stat().st_mtime for file in folder.glob("ckpts/*.ckpt")))
