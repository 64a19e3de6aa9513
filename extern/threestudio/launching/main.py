"""A run from its arguments to its exit status."""

import argparse
import atexit
import gc
import sys
from pathlib import Path
from typing import Any

from threestudio.launching.outcome import EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, explain


def main(arguments: argparse.Namespace, overrides: list[str], n_gpus: int, is_upstream: bool) -> int:
    """Do what the command line asks for; every way to end becomes an exit status and, after a failure, one message.

    Args:
        arguments: the flags of ``launch.py``.
        overrides: ``key=value`` arguments.
        n_gpus: how many GPUs were asked for.
        is_upstream: the host is an upstream checkout in the working directory.
    """
    run: Any = None
    atexit.register(gc.freeze)  # else the interpreter searches half a million objects for cycles before it ends
    try:
        if arguments.typecheck:
            _check_types_of_everything()
        from threestudio.launching.run import Run  # after the type checks, which hook into imports

        run = Run(arguments, overrides, n_gpus, is_upstream)
        run.execute()
    except KeyboardInterrupt:
        return _stopped(run, "interrupted", EXIT_INTERRUPTED)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, KeyboardInterrupt):  # Lightning turns an interrupt into one
            return _stopped(run, "interrupted", EXIT_INTERRUPTED)
        if type(leaving).__name__ == "SIGTERMException":
            return _stopped(run, "terminated", EXIT_TERMINATED)
        return explain(leaving, run, arguments.verbose)  # of an extension
    except Exception as error:  # the one place where every failure becomes a message and an exit status
        return explain(error, run, arguments.verbose)
    return EXIT_OK


def _stopped(run: Any, how: str, code: int) -> int:
    advice = "" if run is None else run.say_how_to_go_on()
    if run is not None:
        run.clean_up()
    print(how + advice, file=sys.stderr, flush=True)
    return code


def _check_types_of_everything() -> None:
    import threestudio
    from threestudio.launching.extensions import custom_folder
    from threestudio.utils.custom_modules import list_custom_modules
    from threestudio.utils.typecheck import install_type_checks

    install_type_checks([Path(threestudio.__file__).parent, *list_custom_modules(custom_folder())])
