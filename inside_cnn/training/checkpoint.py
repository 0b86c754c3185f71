"""Checkpoints that survive a crash.

A checkpoint is what a run needs to resume: a dict saved by torch, followed by the SHA-256 of these
bytes.
"""

import hashlib
import io
from pathlib import Path

import torch

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically

_DIGEST_SIZE = 32
_PATTERN = f"step_{'[0-9]' * 9}.pt"


def save_checkpoint(folder, step, state):
    """Write `state` as the checkpoint of that step, and delete all but the newest two.

    state: a dict of tensors, numbers, strings, and dicts and lists of them.
    Returns the path. Raises OSError if it cannot be written; the older checkpoints stay then.
    """
    path = Path(folder) / f"step_{step:09d}.pt"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomically(path, payload + hashlib.sha256(payload).digest())
    for old in list_checkpoints(folder)[2:]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder):
    """Paths of the checkpoints in a folder, newest first."""
    return sorted(Path(folder).glob(_PATTERN), reverse=True)


def checkpoint_step(path):
    """The step in a checkpoint's file name."""
    return int(path.stem.removeprefix("step_"))


def load_checkpoint(path):
    """The state that save_checkpoint wrote, its tensors on the CPU. No code in the file runs.

    Raises UserError if the checksum is wrong, OSError if the file cannot be read.
    """
    data = Path(path).read_bytes()
    payload, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    if hashlib.sha256(payload).digest() != digest:
        raise UserError(f"{path} is corrupt (its checksum is wrong)")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def load_latest(folder):
    """The newest valid checkpoint of a folder, or None if the folder has no checkpoints.

    Skips a corrupt one with a warning. Raises UserError if all are corrupt.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return load_checkpoint(path)
        except UserError as error:
            print(f"warning: {error}; using the previous checkpoint")
    if paths:
        raise UserError(f"no checkpoint in {folder} is valid; delete the folder to restart")
    return None
