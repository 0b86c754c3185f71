"""A run's log for TensorBoard: every number, the sample grids, the settings."""

import io
import json
from importlib.util import find_spec

import numpy as np
from PIL import Image

from inside_cnn.core.errors import UserError

EVENTS = "TensorBoard's events"


class TensorBoard:
    """An events file in a run's folder; if not `enabled`, the methods do nothing.

    Raises UserError if the package is missing.
    """

    def __init__(self, enabled):
        self._enabled, self._writer = enabled, None
        if enabled and find_spec("tensorboard") is None:
            raise UserError("--tensorboard needs a package: pip install tensorboard")

    def begin(self, folder, step):
        """Create the file. TensorBoard hides entries of an earlier process after `step`."""
        if not self._enabled:
            return
        from torch.utils.tensorboard import SummaryWriter  # here: the import takes seconds

        self._folder, purge = folder, step + 1 if step else 0
        self._writer = folder.attempt(EVENTS, lambda: SummaryWriter(folder.path, purge_step=purge))
        settings = json.dumps(folder.settings, indent=4).replace("\n", "\n    ")
        self._write("text", "settings", f"    {settings}", step)

    def log(self, record):
        """Every field of a record of metrics.jsonl, as a scalar."""
        for name, value in record.items():
            self._write("scalar", name, value, record["step"])

    def add_image(self, png, step):
        """A sample grid, the bytes of a PNG."""
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._write("image", "samples", pixels, step, dataformats="HWC")

    def _write(self, kind, *args, **options):
        def add():
            getattr(self._writer, f"add_{kind}")(*args, **options)
            self._writer.flush()
            return True

        # After an error the writer's thread repeats it forever, so it is not used again.
        if self._writer is not None and not self._folder.attempt(EVENTS, add):
            self._writer = None
