"""How a call ends: exit status, message and log."""

import errno
import os
import sys
import traceback
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, ValidationError

from threestudio.utils.atomic import no_room

EXIT_OK, EXIT_INTERNAL, EXIT_USER, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143

#: mistakes in values, which upstream's host reports by omegaconf's classes (access to unknown keys is a fault in code)
_CONFIG_ERRORS = (InterpolationResolutionError, MissingMandatoryValue, ValidationError)


def is_user_error(error: BaseException, run: Any = None) -> bool:
    """Whether the message alone is what the user needs: a mistake in config, input or surroundings.

    A file that is missing or closed is one only if the user named it: in the config, or as the place for the results.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"UserError", "YAMLError", "MisconfigurationException"} or isinstance(error, _CONFIG_ERRORS):
        return True
    if not isinstance(error, OSError) or run is None:
        return False
    if no_room(error) or error.errno == errno.EROFS:
        return True
    access = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, access) and _is_named(error, run)


def _is_named(error: OSError, run: Any) -> bool:
    if not isinstance(error.filename, (str, os.PathLike)):
        return False
    path = os.path.abspath(error.filename)
    if any(path == os.path.abspath(text) for text in _texts(run.cfg) if text and "\0" not in text):
        return True
    folder = None if run.trial is None else os.path.abspath(run.trial.folder)
    return isinstance(error, PermissionError) and folder is not None and path.startswith(folder)


def _texts(value: Any) -> list[str]:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=False)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _message(error: BaseException) -> str:
    reason = no_room(error)
    if reason is None or not isinstance(error, OSError):
        return str(error)
    file = f"'{error.filename}'" if error.filename else "a file"
    return (
        f"cannot write {file}: {reason}. Free some space or set exp_root_dir to another disk. Checkpoints that "
        "were saved before are whole, and resume= goes on from them."
    )


def explain(error: BaseException, run: Any, verbose: bool) -> int:
    """Print what went wrong with ``run`` (``None``: not even begun) and return the exit status."""
    trace = "".join(traceback.format_exception(error))
    if verbose:
        print(trace, file=sys.stderr)
    if is_user_error(error, run):
        if run is not None:
            run.clean_up()
        print(f"error: {_message(error)}", file=sys.stderr, flush=True)
        return EXIT_USER
    log = None if run is None else run.write_error_log(trace)
    where = f"the traceback is in {log}" if log else "run again with --verbose for the traceback"
    first = (str(error).strip().splitlines() or [""])[0]
    print(f"internal error: {type(error).__name__}: {first} ({where})", file=sys.stderr, flush=True)
    return EXIT_INTERNAL
