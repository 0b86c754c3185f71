"""Progress and speed of a loop."""

import os
import sys
import time

from tqdm import tqdm

PLAIN_LINE_SECONDS = 15  # between lines if stderr is not a terminal


class Progress:
    """A tqdm bar in a terminal, a plain line every few seconds elsewhere.

    total: number of steps of mostly `unit_size` images; columns: {field: format} of the record that
    `report` prints; done: number of steps completed before.
    """

    def __init__(self, title, total, unit_size, columns=None, done=0):
        self.title, self.total, self.unit_size, self.done = title, total, unit_size, done
        self.columns = columns or {}
        self.start, self.start_done = time.monotonic(), done
        self.lap_start, self.lap_images = self.start, 0
        self.last_line = self.start
        self.bar = None
        if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            self.bar = tqdm(desc=title, total=total, initial=done, leave=False, dynamic_ncols=True)

    def step(self, images=None):
        """Count a step of that many images, by default unit_size."""
        self.done += 1
        self.lap_images += self.unit_size if images is None else images
        if self.bar is not None:
            self.bar.update()
        elif time.monotonic() - self.last_line >= PLAIN_LINE_SECONDS:
            self.last_line = time.monotonic()
            speed = f"{self.images_per_second():.1f} images/s, {self.time_left()}"
            print(f"{self.title}: {self.done}/{self.total}, {speed}", flush=True)

    def images_per_second(self):
        """Speed since the last start_lap, or since the start."""
        return self.lap_images / max(time.monotonic() - self.lap_start, 1e-9)

    def time_left(self):
        """`05:30 left`, from the mean time of a step, including evaluation and figures."""
        seconds_per_step = (time.monotonic() - self.start) / max(1, self.done - self.start_done)
        return f"{tqdm.format_interval(seconds_per_step * (self.total - self.done))} left"

    def report(self, record):
        """Print a record of the log as one line; a missing field is a dash."""
        texts = []
        for field, form in self.columns.items():
            width = len(form.format(0.0))
            before = form.partition("{")[0]
            text = form.format(record[field]) if field in record else f"{before}-"
            texts.append(text.ljust(width))
        speed = f"{record['images_per_second']:,.0f} images/s"
        epoch = f"epoch {record['epochs_done']:<6.4g}"
        tqdm.write("  ".join([f"{self.title}  {epoch}", *texts, speed, self.time_left()]))
        if self.bar is not None:
            self.bar.set_postfix_str(", ".join(text.strip() for text in texts))
        self.last_line = time.monotonic()
        sys.stdout.flush()

    def start_lap(self):
        """Measure the speed from now on. Call it after anything other than training."""
        self.lap_start, self.lap_images = time.monotonic(), 0

    def close(self):
        if self.bar is not None:
            self.bar.close()


def with_progress(batches, title, batch_size):
    """Iterate over batches of images with a Progress, or without one if the title is empty."""
    if not title:
        yield from batches
        return
    progress = Progress(title, len(batches), batch_size)
    for batch in batches:
        yield batch
        progress.step()
    progress.close()
