"""The folders that scripts write to."""

import contextlib
import os
import tempfile
from pathlib import Path

from inside_cnn.core.errors import UserError


@contextlib.contextmanager
def writing_to(folder):
    """Create the folder. Raises UserError if it or a file in it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno is None:  # raised by Pillow for an unreadable picture
            raise
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None


@contextlib.contextmanager
def all_or_nothing(folder, last):
    """A temporary folder whose files replace those of the same names in `folder` at the end.

    After an exception `folder` is unchanged. last: the file that describes the others. The old one
    is removed first and the new one is written last, so it never describes files of another run.
    """
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        yield Path(new)
        (folder / last).unlink(missing_ok=True)
        for path in sorted(Path(new).iterdir(), key=lambda path: path.name == last):
            os.replace(path, folder / path.name)
