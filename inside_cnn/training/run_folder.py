"""A run's folder: its settings, its lock, its checkpoints, its log."""

import json
import os
import socket
import sys
import traceback
from pathlib import Path

from inside_cnn.core.errors import UserError
from inside_cnn.core.files import read_json, remove_temporaries, write_atomically, writing_to
from inside_cnn.engine.cli import SAVE_FAILED, Stopped
from inside_cnn.training.checkpoint import (
    checkpoint_step,
    list_checkpoints,
    load_latest,
    save_checkpoint,
)
from inside_cnn.training.provenance import environment

FORMAT = 2  # of the state in a checkpoint
# Settings that some versions lack, and the value that means the same.
ABSENT = {"adversarial_loss": "wasserstein", "flip": "random", "gp_batch_shrink": 1}
SAVED = ("summary.json", "*.safetensors", "checkpoints/step_*.pt")
# Patterns of the files that a run writes. A new run overwrites none of them.
FILES = (
    *("config.json", "metrics.jsonl", "summary.json", "curves.png", "samples/*.png"),
    *("discriminator*.safetensors", "generator*.safetensors", "checkpoints/step_*.pt"),
)


class RunFolder:
    """output/<run>/: config.json, metrics.jsonl, summary.json, checkpoints/ and the task's files.

    settings: the run's arguments by name. A folder that already holds a run is resumed if its
    settings are the same, except for those named in `may_change`; never if `resume` is "never".
    A run that saved nothing, as after a lack of memory, starts over with any settings.
    writer: False on the ranks that leave all writing to rank 0: there `attempt` does nothing.
    Nothing is written before `open`.
    """

    def __init__(self, path, settings, may_change=(), resume="auto", writer=True):
        self.path, self.settings, self.writer = Path(path), settings, writer
        self.may_change, self.resume = set(may_change), resume
        self.checkpoints = self.path / "checkpoints"
        self.metrics_path = self.path / "metrics.jsonl"
        self.failed = {}  # {what could not be written at the last attempt: why}
        self._unwritten = b""  # log lines that could not be written yet
        self._log_size = 0  # bytes of the log that are complete
        self._lock = None

    def open(self, total_steps):
        """Lock the folder; returns (state of the newest valid checkpoint or None, None).

        Of a run that is finished after total_steps: (None, its summary). Raises UserError if
        another process holds the lock, if the settings differ, if the folder cannot be used or
        holds other results, or if all checkpoints are corrupt.
        """
        with writing_to(self.path):
            self._lock = lock(self.path)
        self.config = read_json(self.path / "config.json", optional=True)
        if isinstance(self.config, dict) and "settings" in self.config:
            self._check_settings()
        elif existing := self._glob(FILES):
            raise UserError(f"{existing[0]} is not of this run; give another --output_dir")
        state = load_latest(self.checkpoints)
        summary = read_json(self.path / "summary.json", optional=True)
        if state is None and summary is not None:
            raise UserError(
                f"{self.path} holds a finished run without its checkpoints, so it cannot be "
                "resumed; give another --output_dir"
            )
        if summary is not None and summary["step"] == state["step"] >= total_steps:
            return None, summary
        if state is not None and state.get("format") != FORMAT:
            raise UserError(
                f"another version of this program wrote the checkpoint in {self.checkpoints} and "
                "has to finish the run (config.json names its commit); give another --output_dir"
            )
        return state, None

    def _glob(self, patterns):
        return [path for pattern in patterns for path in self.path.glob(pattern)]

    def _check_settings(self):
        if self.resume == "never":
            raise UserError(
                f"{self.path} already holds a run; give another --output_dir, or --resume auto"
            )
        if not (self._glob(SAVED) or self.records()):
            self.config = None
            return
        before, now = ABSENT | self.config["settings"], ABSENT | self.settings
        differences = [
            f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
            for name in sorted((before.keys() | now.keys()) - self.may_change)
            if before.get(name) != now.get(name)
        ]
        if differences:
            raise UserError(
                f"{self.path} belongs to a run with other settings ({'; '.join(differences)}); "
                "give the same settings to resume it, or another --output_dir"
            )

    def close(self):
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()

    def begin(self, step, device):
        """Write config.json, or add to it that the run resumes after `step`; rewind the log.

        device: its description. Raises UserError if the folder cannot be written.
        """
        start = {"device": device, **environment()}
        if self.config is None:
            self.config = {"settings": self.settings, **start}
        else:
            before = self.config["settings"]
            changed = {k: v for k, v in self.settings.items() if before.get(k) != v}
            entry = {"after_step": step, **start, "changed": changed}
            self.config.setdefault("resumed", []).append(entry)
        # The steps after the checkpoint will be taken, and logged, again.
        lines = [json.dumps(record) for record in self.records() if record["step"] <= step]
        log = "".join(line + "\n" for line in lines).encode()
        with writing_to(self.checkpoints):
            for file in FILES:
                remove_temporaries(self.path / file)
            for path in list_checkpoints(self.checkpoints):
                if checkpoint_step(path) > step:  # a corrupt one
                    path.unlink()
            write_atomically(self.path / "config.json", json.dumps(self.config, indent=2).encode())
            write_atomically(self.metrics_path, log)
        self._log_size = len(log)

    # ------------------------------------------------------------------------------ writing

    def attempt(self, what, action, errors=OSError):
        """action(), which writes `what`; an OSError is reported and remembered, not raised.

        errors: exceptions that do not end the run; the traceback of others than OSError is printed.
        Returns what the action returns, None if it failed or this rank is no writer.
        """
        if not self.writer:
            return None
        try:
            result = action()
        except errors as error:
            if not isinstance(error, OSError):
                traceback.print_exc()
                return None
            self.failed[what] = error.strerror or str(error)
            print(f"warning: could not write {what}: {self.failed[what]}", file=sys.stderr)
            return None
        self.failed.pop(what, None)
        return result

    def raise_if_anything_failed(self):
        """At the end of a run. Raises Stopped if the last attempt to write a file failed."""
        if self.failed:
            what = "; ".join(f"{name} ({why})" for name, why in self.failed.items())
            raise Stopped(SAVE_FAILED, f"the run ended, but could not write {what}")

    def write(self, file, data):
        """Attempt to write bytes to a path in the folder; returns whether that worked."""

        def write():
            path = self.path / file
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
            return True

        return bool(self.attempt(file, write))

    def save_state(self, step, state):
        """Attempt to write the run's state after `step` as a checkpoint. Returns its path."""

        def save():
            self._append()  # a checkpoint without the log lines before it would lose them
            path = save_checkpoint(self.checkpoints, step, state | {"format": FORMAT, "step": step})
            (self.path / "summary.json").unlink(missing_ok=True)  # of an earlier checkpoint
            return path

        return self.attempt("the checkpoint", save)

    def log(self, record):
        """Attempt to append a line to metrics.jsonl; a failed one waits for the next attempt."""
        self._unwritten += json.dumps(record).encode() + b"\n"
        self.attempt(self.metrics_path.name, self._append)

    def _append(self):
        with open(self.metrics_path, "ab") as file:
            file.truncate(min(file.tell(), self._log_size))  # without what a failed write left
            file.write(self._unwritten)
            file.flush()
            os.fsync(file.fileno())
            self._log_size = file.tell()
        self._unwritten = b""

    def records(self):
        """The records of metrics.jsonl, oldest first, without an incomplete last line."""
        if not self.metrics_path.is_file():
            return []
        lines = self.metrics_path.read_bytes().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith(b"\n")]


def lock(folder):
    """The open file that holds a folder's lock; the kernel releases it when the process ends.

    Raises UserError if another process holds it, OSError if the file system has no locks.
    """
    import fcntl  # here: Windows has none

    file = open(folder / ".lock", "a+b", buffering=0)  # noqa: SIM115 (until the run's end)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            owner = file.read().decode().strip() or "another process"
        raise UserError(
            f"{folder} is in use by {owner}; wait for it, or give another --output_dir"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def recorded_precision(path):
    """The precision of the run in a folder that can be resumed, or None."""
    path = Path(path)
    if not any(any(path.glob(pattern)) for pattern in SAVED):
        return None
    config = read_json(path / "config.json", optional=True)
    return config.get("settings", {}).get("precision") if isinstance(config, dict) else None
