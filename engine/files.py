"""Files that are whole, whenever the machine stops; and JSON that may be anything."""

import errno
import json
import os
import secrets
from pathlib import Path

# Of a file system whose folders cannot be flushed, or a folder that may be written and not read.
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


def write_atomically(path, data):
    """Put bytes at `path` so that a crash at any moment leaves the old file or the new one.

    Written to a temporary file in the same folder (a rename across file systems is not atomic),
    flushed to the disk, renamed over the target; then the folder, which holds the name, is flushed
    where that can be done. A link at `path` is replaced, not followed. Raises OSError, also where
    something other than a file is there, a device say.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "there is something that is no regular file", str(path))
    # A name that no other writer has, and nobody can have put a link at.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def remove_temporaries(path):
    """Remove the temporary files of writes to `path` that were killed; its name may be a pattern.

    Only where nobody else writes to it. Raises OSError.
    """
    for temporary in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}.tmp"):
        temporary.unlink(missing_ok=True)


def parse_json(text, otherwise=None):
    """What JSON says, a string or bytes, or `otherwise` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def is_number(value):
    """Whether a value out of JSON can be drawn and printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _flush_folder(path):
    try:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
