"""How far a loop has come and how fast: a bar in a terminal, a line now and then elsewhere."""

import os
import sys
import time

from tqdm import tqdm

PLAIN_LINE_SECONDS = 15  # between lines where the output is no terminal


class Progress:
    """A tqdm bar in a terminal, a plain line now and then elsewhere.

    total: number of steps of `unit_size` images each; done: where to start.
    """

    def __init__(self, title, total, unit_size, done=0):
        self.title, self.total, self.unit_size, self.done = title, total, unit_size, done
        self.lap_start, self.lap_done = time.monotonic(), done
        self.last_line = self.lap_start
        self.bar = None
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            self.bar = tqdm(desc=title, total=total, initial=done, leave=False, dynamic_ncols=True)

    def step(self):
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif time.monotonic() - self.last_line >= PLAIN_LINE_SECONDS:
            self.last_line = time.monotonic()
            speed = self.images_per_second()
            print(f"{self.title}: {self.done}/{self.total}, {speed:.1f} images/s", flush=True)

    def images_per_second(self):
        """Speed since the start or the last start_lap."""
        seconds = max(time.monotonic() - self.lap_start, 1e-9)
        return (self.done - self.lap_done) * self.unit_size / seconds

    def report(self, record):
        """Print a record of figures, above the bar where there is one."""
        figures = [f"{name} {v:.4g}" for name, v in record.items() if isinstance(v, int | float)]
        tqdm.write(f"{self.title}: " + ", ".join(figures))
        sys.stdout.flush()

    def start_lap(self):
        """Measure the speed from here on: called after whatever is no training."""
        self.lap_start, self.lap_done = time.monotonic(), self.done

    def close(self):
        if self.bar is not None:
            self.bar.close()
