"""Files that are whole, whenever the machine stops."""

import os
from pathlib import Path


def write_atomically(path, data):
    """Put bytes at `path` so that a crash at any moment leaves the old file or the new one.

    Written to a temporary file in the same folder (a rename across file systems is not atomic),
    flushed to the disk, renamed over the target; then the folder, which holds the name, is flushed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
