"""A run's log for TensorBoard: every figure, the sample grids, the settings.

metrics.jsonl stays the truth: whenever a run begins or goes on, what TensorBoard reads is made anew
out of it. So nothing stands there twice, or is missing, whatever ended the run before.
"""

import contextlib
import io
import json
import os
import sys

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.files import is_number
from engine.output_folder import RunError

SUFFIX = ".training"  # marks our files of events: others may lie in the same folder
EVENTS = f"events.out.tfevents.*{SUFFIX}"


class TensorBoard:
    """Writes a file of events into a run's folder, if it is wanted; else its methods do nothing.

    What cannot be written ends the writing with one line, and is made up for by the same command.
    Raises RunError where the package is missing.
    """

    def __init__(self, wanted):
        self._wanted, self._writer = wanted, None
        if not wanted:
            return
        try:  # here, since it takes seconds and is seldom wanted
            from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RunError(
                f"--tensorboard needs a package ({error}): pip install tensorboard"
            ) from None
        self._writer_class, self._loader_class = SummaryWriter, EventFileLoader

    def begin(self, folder, step, steps_per_epoch):
        """Put what a RunFolder holds up to this step in place of the events that are there.

        Points that were there before keep their times.
        """
        self._try(self._begin, folder, step, steps_per_epoch)

    def _begin(self, folder, last, steps_per_epoch):
        before = sorted(folder.path.glob(EVENTS))
        times = self._times_in(before)
        for path in before:
            # A TensorBoard that looks on stays with its file while that is gone: the last one is
            # emptied, and removed the next time.
            if path.stat().st_size:
                os.truncate(path, 0)
            else:
                path.unlink()
        # purge_step: it then forgets what it has read.
        self._writer = self._writer_class(str(folder.path), purge_step=0, filename_suffix=SUFFIX)
        text = json.dumps(folder.settings, indent=4, ensure_ascii=False)
        self._writer.add_text("settings", f"    {text}".replace("\n", "\n    "), 0, times.get(0))
        for record in folder.records():
            self._log(record, times.get(record["step"]))
        for path in sorted((folder.path / "samples").glob("*.png")):
            step = int(path.stem) * steps_per_epoch if path.stem.isdecimal() else last + 1
            if step <= last:
                with contextlib.suppress(UnidentifiedImageError):  # one that is damaged
                    self._show(path.read_bytes(), step, times.get(step))

    def _times_in(self, paths):
        """{step: when it was written, in seconds since 1970} of files of events, damaged or not."""
        times = {}
        for path in paths:
            with contextlib.suppress(Exception):  # the times are all that would be lost
                for event in self._loader_class(str(path)).Load():
                    times.setdefault(event.step, event.wall_time)
        return times

    def log(self, record):
        """A record of metrics.jsonl: each of its numbers by its name."""
        self._try(self._log, record)

    def show(self, png, step):
        """A sample grid, the bytes of a PNG."""
        self._try(self._show, png, step)

    def _log(self, record, time=None):
        for name, value in record.items():
            if is_number(value):
                self._writer.add_scalar(name, value, record["step"], time)
        self._writer.flush()

    def _show(self, png, step, time=None):
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, step, time, dataformats="HWC")
        self._writer.flush()

    def _try(self, action, *args):
        if not self._wanted:
            return
        try:
            action(*args)
        except OSError as error:
            self._wanted = False
            why = error.strerror or error
            print(f"warning: no more is written for TensorBoard ({why})", file=sys.stderr)

    def close(self):
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
