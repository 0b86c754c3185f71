"""One run, one writer."""

import contextlib
import fcntl
import os
import socket

from engine.output_folder import RunError


class FolderLock:
    """The lock of a run's folder. The kernel gives it back when the process ends, however."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / ".lock"
        self._file = None  # open, and so held

    def take(self):
        """Take it, unless it is held already. Raises RunError where another process holds it."""
        if self._file is not None:
            return
        try:
            file = open(self.path, "a+", opener=_open_no_link)  # noqa: SIM115 (until release)
        except OSError as error:
            raise RunError(f"cannot write to {self.folder}: {error.strerror or error}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            with file:
                owner = _owner(file)
            if not isinstance(error, BlockingIOError):
                raise RunError(
                    f"cannot lock {self.path} ({error.strerror}): this file system knows no locks; "
                    "give an --output_dir on another one"
                ) from None
            raise RunError(
                f"{self.folder} is in use by {owner}; wait for it, or give another --output_dir"
            ) from None
        self._file = file
        if self.is_lost():
            self.release()
            raise RunError(f"{self.folder} was removed just now; start again")
        with contextlib.suppress(OSError):  # the name is a courtesy, the lock itself holds
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def is_lost(self):
        """Whether the lock held is no longer the folder's, which was removed or made anew since."""
        if self._file is None:
            return False
        try:
            named = os.stat(self.path, follow_symlinks=False)
            return not os.path.samestat(os.fstat(self._file.fileno()), named)
        except OSError:
            return True

    def release(self):
        if self._file is not None:
            self._file.close()
            self._file = None


def _open_no_link(path, flags):
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _owner(file):
    """What its owner wrote into a lock's file."""
    with contextlib.suppress(OSError, UnicodeError):
        file.seek(0)
        return file.read(1000).strip() or "another process"
    return "another process"
