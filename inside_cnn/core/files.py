"""Atomic writes, output folders, JSON, and digests."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path

from inside_cnn.core.errors import UserError


def write_atomically(path, data):
    """Write bytes to `path` so that a crash leaves either the old file or the new one.

    The bytes go to a temporary file in the same folder, which is flushed and then renamed to
    `path`. A symbolic link at `path` is replaced, not followed.
    Raises OSError, also if `path` exists and is not a regular file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, f"{path.name} is not a regular file", str(path))
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
        os.fsync(folder)  # flushes the name too; some file systems refuse


def remove_temporaries(path):
    """Remove temporary files left by killed writes to `path`, whose name may be a pattern."""
    for temporary in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}.tmp"):
        temporary.unlink()


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


def read_json(path, optional=False):
    """The value in a JSON file; None if it is optional and does not exist.

    Raises UserError if the file has no valid JSON.
    """
    if optional and not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise UserError(f"{path} is no JSON file of this program") from None


def parse_json(text):
    """The value of a JSON text, or the text itself if it is not valid JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def is_number(value):
    """Whether a value from JSON can be plotted and printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def digest_of(*values):
    """SHA-256 of the bytes of tensors and of other values as text: 64 hexadecimal digits."""
    import torch  # here: its import takes seconds

    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().flatten()
            digest.update(flat.view(torch.uint8).numpy())  # NumPy has no bfloat16
        else:
            digest.update(str(value).encode(errors="surrogateescape"))
    return digest.hexdigest()
