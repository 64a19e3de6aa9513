"""One process at a time in a run's folder."""

import os
import socket
from pathlib import Path

from threestudio.utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no protection
    fcntl = None

LOCK_NAME = "launch.lock"


class FolderLock:
    """A lock on a folder, for as long as this process lives; held by :meth:`acquire`.

    The lock is the operating system's, on a file that names the holder. However the holder ends, its lock ends with it,
    so a file that is left behind is no obstacle. Forked children do not hold it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; does nothing if it is held already.

        Raises:
            UserError: another process holds it.
            OSError: the folder cannot be written to.
        """
        if fcntl is None or self._descriptor is not None:
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            who = f" ({holder})" if holder else ""
            raise UserError(
                f"{self.path.parent} is in use by another process{who}: their results would mix. Wait for its end, "
                "stop it, or give this run another tag=."
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
