"""Atomic writes, and JSON from files that may hold anything."""

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path


def write_atomically(path, data):
    """Put bytes at `path` so that a crash at any moment leaves the old file or the new one.

    Written to a temporary file in the same folder (a rename across file systems is not atomic),
    flushed to the disk, renamed over the target. A link at `path` is replaced, not followed.
    Raises OSError, also if something other than a file is there, such as a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "there is something that is no regular file", str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        folder = os.open(path.parent, os.O_RDONLY)
        stack.callback(os.close, folder)
        os.fsync(folder)  # so that the name is on the disk too; some file systems refuse


def remove_temporaries(path):
    """Remove the temporary files of killed writes to `path`, whose name may be a pattern.

    Nobody may be writing to it.
    """
    for temporary in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}.tmp"):
        temporary.unlink()


def parse_json(text, otherwise=None):
    """The value of a JSON text, a string or bytes; `otherwise` if it is not valid JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def is_number(value):
    """Whether a value from JSON can be plotted and printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
