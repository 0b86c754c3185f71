"""Checkpoints that survive a crash.

A checkpoint is what a run needs to go on: a dict saved by torch, followed by the SHA-256 of these
bytes.
"""

import hashlib
import io
import re
from pathlib import Path

import torch

from engine.files import write_atomically
from engine.weights import CheckpointError

_DIGEST_SIZE = 32
_NAME = re.compile(r"step_(\d{9})\.pt")


def save_checkpoint(folder, step, state, keep=2):
    """Write `state` as the checkpoint of that step; of the older ones the last `keep` - 1 stay.

    state: a dict of tensors, numbers, strings, and dicts and lists of them.
    Returns the path. Raises OSError where it cannot be written; what was there before stays.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:09d}.pt"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    write_atomically(path, bytes(payload) + hashlib.sha256(payload).digest())
    for old in list_checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def not_finite(state, name=""):
    """The names of the tensors in a state, nested dicts and lists, that hold NaN or infinities."""
    if isinstance(state, torch.Tensor):
        return [] if not state.is_floating_point() or torch.isfinite(state).all() else [name]
    if isinstance(state, dict):
        pairs = state.items()
    else:
        pairs = enumerate(state) if isinstance(state, list | tuple) else ()
    return [bad for key, value in pairs for bad in not_finite(value, f"{name}/{key}")]


def list_checkpoints(folder):
    """Paths of the checkpoints in a folder, newest first."""
    paths = [path for path in Path(folder).glob("step_*.pt") if _NAME.fullmatch(path.name)]
    return sorted(paths, reverse=True)


def checkpoint_step(path):
    """The step in a checkpoint's file name."""
    return int(_NAME.fullmatch(path.name)[1])


def load_checkpoint(path, device="cpu"):
    """The state that save_checkpoint wrote, its tensors on `device`.

    Only tensors and plain values are read: no code in the file can run. Raises CheckpointError for
    a file that is missing, cut short, altered, or not one of ours.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror}") from None
    payload, digest = memoryview(data)[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{path} is not a whole checkpoint of this program (bad checksum)")
    try:
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except Exception as error:  # unpicklers raise almost anything on a crafted file
        raise CheckpointError(f"{path} does not hold a checkpoint: {error}") from None


def load_latest(folder, device="cpu"):
    """The newest checkpoint of a folder that is whole, or None where there is none at all.

    A damaged one is passed over with a warning. Raises CheckpointError where all are damaged.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return load_checkpoint(path, device)
        except CheckpointError as error:
            print(f"warning: {error}; trying the one before")
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} is whole; delete the folder to start anew"
        )
    return None
