"""Checkpoints that survive a crash.

A checkpoint is what a run needs to go on: a dict saved by torch, followed by the SHA-256 of these
bytes.
"""

import hashlib
import io
import re
import warnings
import zipfile
from pathlib import Path

import torch

from engine.files import write_atomically
from engine.weights import CheckpointError

_DIGEST_SIZE = 32
_MOST_PARTS = 100_000  # of a state: dicts, lists, tensors and plain values
_NAME = re.compile(r"step_(\d{9})\.pt")


class Damaged(CheckpointError):
    """A checkpoint that is not as it was written: its checksum says so."""


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


def load_checkpoint(path):
    """The state that save_checkpoint wrote, its tensors on the CPU in memory of their own.

    Only tensors and plain values are read: no code in the file can run. Raises Damaged for a file
    that is cut short or altered, CheckpointError for one that cannot be read or is not one of ours.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror}") from None
    payload, digest = memoryview(data)[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    if hashlib.sha256(payload).digest() != digest:
        raise Damaged(f"{path} is not a whole checkpoint of this program (bad checksum)")
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:  # compressed parts could grow
            if sum(part.file_size for part in archive.infolist()) > len(payload):
                raise ValueError("its parts are larger than the file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd kinds, which are refused below
            state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        return _Copy(len(payload)).of(state)
    except Exception as error:  # unpicklers raise almost anything on a crafted file
        line = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path} does not hold a checkpoint: {line}") from None


class _Copy:
    """A copy of a state, its tensors dense, of no more than its file can hold.

    A file can describe a tensor of one number in 10^12 places, a moment that an optimizer would
    write past the end of, a list that holds itself. A checksum is no signature.
    """

    def __init__(self, size):
        self.bytes_left, self.parts_left = size, _MOST_PARTS

    def of(self, value):
        """Raises ValueError for what save_checkpoint does not write."""
        self.parts_left -= 1
        if self.parts_left < 0:
            raise ValueError("it has too many parts")
        if isinstance(value, torch.Tensor):
            return self._of_tensor(value)
        if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
            return {key: self.of(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            parts = [self.of(part) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"it holds a {type(value).__name__}")

    def _of_tensor(self, tensor):
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f"it holds a tensor of an odd kind ({tensor.layout})")
        self.bytes_left -= tensor.numel() * tensor.element_size()
        if self.bytes_left < 0:
            raise ValueError("its tensors are larger than the file")
        return tensor.detach().clone()


def load_latest(folder):
    """The newest checkpoint of a folder that is whole, or None where there is none at all.

    A damaged one is passed over with a warning. Raises CheckpointError where all are damaged, and
    where one cannot be read or understood: that may pass, or be another program's to mend.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return load_checkpoint(path)
        except Damaged as error:
            print(f"warning: {error}; trying the one before")
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} is whole; delete the folder to start anew"
        )
    return None
