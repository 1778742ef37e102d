"""One process at a time in an output folder, and no folder that is somebody else's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tubelet.spec.errors import InvalidRequestError

__all__ = ["LEDGER_NAME", "FolderLock"]

LEDGER_NAME = "ledger.sqlite"
_LOCK_NAME = "ledger.lock"


class FolderLock:
    """Holds an output folder until `release`, or until the process ends, however it ends.

    Args:
        folder: is made where it does not exist.

    Raises:
        InvalidRequestError: ``bad_parameter``: another process holds it, it cannot be written, or it holds files but
            no ledger, so that it is not ours.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder)
            self._descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise InvalidRequestError(
                "bad_parameter", f"--out {folder} cannot be written ({exc.strerror}); choose another"
            ) from exc
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            if not isinstance(exc, BlockingIOError):
                raise InvalidRequestError("bad_parameter", f"--out {folder} cannot be locked ({exc.strerror})") from exc
            raise InvalidRequestError(
                "bad_parameter",
                f"another process is scoring into {folder} (process {holder or 'unknown'}); wait for its end, "
                "or choose another --out",
            ) from None
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Lets others in; the lock's file stays, since removing it would let two in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _refuse_foreign(folder: Path) -> None:
    """Hidden files are left out: systems put theirs everywhere."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if LEDGER_NAME not in names and (foreign := sorted(names - {_LOCK_NAME})):
        raise InvalidRequestError(
            "bad_parameter",
            f"{folder} holds {foreign[0]!r}{' and more' if len(foreign) > 1 else ''} but no {LEDGER_NAME}, so it is no "
            "folder of an earlier run; choose another --out",
        )
