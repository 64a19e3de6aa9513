"""How every command line of the extension ends: one message and an exit status for what its user can mend."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .errors import UserError


def run_command(main: Callable[[], int | None]) -> int:
    """Exit status of ``main``: its own or 0, 2 with one message for a ``UserError``, 130 when interrupted.

    What else goes wrong is a fault of ours and keeps its traceback.
    """
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
