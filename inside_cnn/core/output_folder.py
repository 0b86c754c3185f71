"""The folders that scripts write to."""

import contextlib
import os
import tempfile
from pathlib import Path

from inside_cnn.core.errors import UserError


@contextlib.contextmanager
def writing_to(folder):
    """Make the folder; raises UserError if it, or something in it, cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno is None:  # not from the system: a picture that Pillow cannot read
            raise
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None


@contextlib.contextmanager
def all_or_nothing(folder, last):
    """A folder to write to, whose files take the place of those of the same names in `folder`.

    If anything is raised before, `folder` stays as it was. last: the file that describes the
    others. The old one is removed first and the new one is written last, so that it never describes
    files of another run.
    """
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        yield Path(new)
        (folder / last).unlink(missing_ok=True)
        for path in sorted(Path(new).iterdir(), key=lambda path: path.name == last):
            os.replace(path, folder / path.name)
