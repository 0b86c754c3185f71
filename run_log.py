"""A run's folder: its settings, its figures over time, its curves and its image grids."""

import io
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_latest,
    save_checkpoint,
    write_atomically,
)
from runtime import Stopped

PLAIN_LINE_SECONDS = 15  # between progress lines where the output is no terminal
DIVERGED = 3  # exit code
_DPI = 100


class RunError(Exception):
    """The run's folder cannot be used; the message says why and what to do."""


class RunFolder:
    """output/<run>/: config.json, metrics.jsonl, curves.png, checkpoints/ and what the task adds.

    settings: the run's arguments by name, with `script` and `width` among them. A folder that
    already holds a run is taken up again if its settings are the same, but for those named in
    `may_change`. Nothing is written before `begin`.
    Raises RunError where the settings differ, or where `resume` is "never" and a run is there.
    """

    def __init__(self, path, settings, may_change=(), resume="auto"):
        self.path, self.settings = Path(path), settings
        self.checkpoints = self.path / "checkpoints"
        self.metrics_path = self.path / "metrics.jsonl"
        self.config_path = self.path / "config.json"
        self.config = _read_config(self.config_path)
        if self.config is None:
            return
        if resume == "never":
            raise RunError(
                f"{self.path} already holds a run; give another --output_dir, or --resume auto to "
                "go on with it"
            )
        before = self.config.get("settings", {})
        names = sorted((before.keys() | settings.keys()) - set(may_change))
        differences = [
            f"{name} was {before.get(name)!r}, now {settings.get(name)!r}"
            for name in names
            if before.get(name) != settings.get(name)
        ]
        if differences:
            raise RunError(
                f"{self.path} belongs to a run with other settings ({'; '.join(differences)}); "
                "give the same settings to go on with it, or another --output_dir"
            )

    def save_state(self, step, state):
        """Write the run's state after `step` as a checkpoint; returns its path."""
        return save_checkpoint(self.checkpoints, step, state | {"of": self._identity()})

    def load_state(self, device):
        """The state of the newest whole checkpoint, or None for a run that is to begin.

        Raises CheckpointError where the checkpoints are damaged or of another network, RunError
        where they are gone but the run's results are there.
        """
        state = load_latest(self.checkpoints, device)
        if state is None and (self.path / "summary.json").exists():
            raise RunError(
                f"{self.path} holds a finished run without its checkpoints, so it cannot go on; "
                "give another --output_dir"
            )
        if state is not None and (
            not isinstance(state, dict) or state.get("of") != self._identity()
        ):
            raise CheckpointError(
                f"the checkpoint in {self.checkpoints} is of another network or script than "
                f"{self._identity()}; give another --output_dir"
            )
        return state

    def _identity(self):
        return {"script": self.settings["script"], "width": self.settings["width"]}

    def begin(self, step, device):
        """Write config.json, or that the run goes on after `step`, and make the folders.

        device: in words. Raises RunError where the folder cannot be written.
        """
        config = self.config or {"settings": self.settings, "device": device, **_environment()}
        if self.config is not None:
            entry = {"after_step": step, "device": device, **_environment()}
            before = config["settings"]
            entry["changed"] = {k: v for k, v in self.settings.items() if before.get(k) != v}
            config = config | {"resumed": [*config.get("resumed", []), entry]}
        try:
            for folder in (self.path, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config_path, json.dumps(config, indent=2).encode())
            self._rewind(step)
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}") from None

    def log(self, record):
        """Append one line to metrics.jsonl. Raises runtime.Stopped where a figure is not finite."""
        bad = [name for name, value in record.items() if not math.isfinite(value)]
        if bad:
            last = next(iter(list_checkpoints(self.checkpoints)), "none yet")
            raise Stopped(
                DIVERGED,
                f"diverged: {', '.join(bad)} not finite in the steps up to {record['step']}, which "
                f"were not saved; last good checkpoint: {last}",
            )
        with open(self.metrics_path, "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self):
        """Every line of metrics.jsonl, oldest first; a last line that was cut short is left out."""
        if not self.metrics_path.exists():
            return []
        records = []
        for line in self.metrics_path.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def _rewind(self, step):
        # Forget what was logged after `step`: a resumed run goes through those steps again.
        kept = [record for record in self.records() if record["step"] <= step]
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.metrics_path, lines.encode())

    def write_summary(self, summary):
        """Keep the final figures, a dict with `step`, as summary.json: it marks a finished run."""
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=2).encode())

    def finished_summary(self, step, total_steps):
        """The final figures where the run has come to its end already, else None."""
        path = self.path / "summary.json"
        if step < total_steps or not path.exists():
            return None
        summary = json.loads(path.read_text())
        return summary if summary.get("step") == step else None


def _read_config(path):
    try:
        config = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("settings", {}), dict):
        raise RunError(f"{path} is damaged; give another --output_dir")
    return config


def _environment():
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"git_commit": commit, "versions": {**versions, "numpy": np.__version__}}


class Progress:
    """A tqdm bar in a terminal, a plain line now and then elsewhere.

    total: number of steps of `unit_size` images each; done: where to start.
    """

    def __init__(self, title, total, unit_size, done=0):
        self.title, self.total, self.unit_size, self.done = title, total, unit_size, done
        self.lap_start, self.lap_done = time.monotonic(), done
        self.last_line = self.lap_start
        self.bar = None
        if sys.stderr.isatty():
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


# ------------------------------------------------------------------------------ figures


def save_figure(figure, path):
    """Write a matplotlib figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    write_atomically(path, buffer.getvalue())


def save_curves(records, path, panels):
    """Learning curves, one panel each.

    panels: {panel title: {field of the records: name in the legend}}. A field may be missing in
    some records; a panel of which every field is missing everywhere is left out.
    """
    panels = {
        title: {f: name for f, name in fields.items() if any(f in r for r in records)}
        for title, fields in panels.items()
    }
    panels = {title: fields for title, fields in panels.items() if fields}
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
    for index, (title, fields) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for field, name in fields.items():
            points = [(r["epochs_done"], r[field]) for r in records if field in r]
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
        axes.set(title=title, xlabel="epoch")
        if records[-1]["epochs_done"] >= 2:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(fields) > 1:
            axes.legend(frameon=False)
    save_figure(figure, path)


def save_image_grid(
    images, path, column_names=(), title="", captions=(), columns=10, scale=3, gap=4
):
    """Images in rows of `columns`, every image pixel drawn as scale x scale pixels of the figure.

    images: uint8 (n, 3, h, w); column_names: text above each column; captions: text below each
    image, one or two lines, n of them or none; gap: pixels between images.
    """
    images = images.cpu().numpy().transpose(0, 2, 3, 1)
    side = images.shape[1] * scale
    top = 8 + 20 * bool(title) + 18 * bool(column_names)
    caption_lines = max((c.count("\n") + 1 for c in captions), default=0)
    pitch_x, pitch_y = side + gap, side + gap + 13 * caption_lines
    rows = -(-len(images) // columns)
    width, height = columns * pitch_x + gap, top + rows * pitch_y + gap
    canvas = np.full((height, width, 3), 255, np.uint8)
    places = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = gap + column * pitch_x, top + row * pitch_y
        canvas[y : y + side, x : x + side] = image.repeat(scale, 0).repeat(scale, 1)
        places.append((x + side / 2, y + side))
    figure = Figure(figsize=(width / _DPI, height / _DPI))
    figure.figimage(canvas, 0, 0)

    def write(x, y, text, pixels, **style):
        size = pixels * 72 / _DPI
        figure.text(x / width, 1 - y / height, text, fontsize=size, **style)

    if title:
        write(gap, 6, title, 15, va="top", weight="bold")
    for column, name in enumerate(column_names):
        x = gap + column * pitch_x + side / 2
        write(x, top - 4, name, 13, ha="center", va="bottom")
    for (x, y), caption in zip(places, captions, strict=False):
        write(x, y + 2, caption, 11, ha="center", va="top", linespacing=1.0)
    save_figure(figure, path)
