"""How a call ends: exit status, message and log."""

import errno
import sys
import traceback
from typing import Any

EXIT_OK, EXIT_INTERNAL, EXIT_USER, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone is what the user needs: a mistake in config, input or surroundings."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"UserError", "OmegaConfBaseException", "YAMLError", "MisconfigurationException"}:
        return True
    no_room = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return no_room or isinstance(error, (FileNotFoundError, PermissionError))


def explain(error: BaseException, run: Any, verbose: bool) -> int:
    """Print what went wrong with ``run`` (``None``: not even begun) and return the exit status."""
    trace = "".join(traceback.format_exception(error))
    if verbose:
        print(trace, file=sys.stderr)
    if is_user_error(error):
        if run is not None:
            run.clean_up()
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER
    log = None if run is None else run.write_error_log(trace)
    where = f"the traceback is in {log}" if log else "run again with --verbose for the traceback"
    first = (str(error).strip().splitlines() or [""])[0]
    print(f"internal error: {type(error).__name__}: {first} ({where})", file=sys.stderr, flush=True)
    return EXIT_INTERNAL
