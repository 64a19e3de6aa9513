"""A run from its arguments to its exit status."""

import argparse
import sys
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
    try:
        if arguments.typecheck:
            _check_types_of_everything()
        from threestudio.launching.run import Run  # after the type checks, which hook into imports

        run = Run(arguments, overrides, n_gpus, is_upstream)
        run.execute()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as leaving:  # Lightning turns an interrupt into one
        if isinstance(leaving.__context__, KeyboardInterrupt):
            where = f": continue with resume={run.trial_dir}" if run is not None and run.trial_dir else ""
            print(f"interrupted{where}", file=sys.stderr, flush=True)
            return EXIT_INTERRUPTED
        if type(leaving).__name__ == "SIGTERMException":
            return EXIT_TERMINATED
        raise
    except Exception as error:  # the one place where every failure becomes a message and an exit status
        return explain(error, run, arguments.verbose)
    return EXIT_OK


def _check_types_of_everything() -> None:
    from threestudio.launching.extensions import custom_folder
    from threestudio.utils.custom_modules import list_custom_modules
    from threestudio.utils.typecheck import install_type_checks

    install_type_checks(["threestudio", *(path.stem for path in list_custom_modules(custom_folder()))])
