"""The files of a run that cannot be made again later: best weights, sample grids."""

from pathlib import Path

import torch


class MadeOnce:
    """Writes them to a RunFolder; what cannot be written waits, in checkpoints too."""

    def __init__(self, folder):
        self.folder = folder
        self._waiting = {}  # {file: its bytes, uint8 (n,)}

    def write(self, file, content):
        """Put bytes at a path in the folder. A failure is told and remembered, not raised."""
        self._waiting[file] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self.retry()

    def retry(self):
        """Write what waits."""
        for file, content in list(self._waiting.items()):
            self.folder.attempt(file, self.folder.write, file, content.numpy().tobytes())
            if file not in self.folder.failed:
                del self._waiting[file]

    def state_dict(self):
        return self._waiting

    def load_state_dict(self, state):
        """Raises ValueError for what is no state of files of a run."""
        if not isinstance(state, dict):
            raise ValueError(f"no files by their names, but a {type(state).__name__}")
        for file, content in state.items():
            path = Path(str(file))
            inside = not path.is_absolute() and ".." not in path.parts
            if not inside or path.suffix not in (".png", ".safetensors"):
                raise ValueError(f"{file!r} is no file of a run")
            if not isinstance(content, torch.Tensor) or content.dtype != torch.uint8:
                raise ValueError(f"what is to be written to {file} is no bytes")
        self._waiting = dict(state)
