"""A run's folder: its settings, its lock, its checkpoints, its log."""

import contextlib
import json
import math
import os
import sys
from pathlib import Path

from engine.cli import ADDED, DIVERGED, SAVE_FAILED, Stopped, without_deleted
from engine.files import parse_json, remove_temporaries, write_atomically
from engine.output_folder import RunError
from engine.provenance import environment
from engine.weights import CheckpointError
from training.checkpoint import (
    checkpoint_step,
    list_checkpoints,
    load_latest,
    not_finite,
    save_checkpoint,
)
from training.folder_lock import FolderLock

FILES = (  # of a run, as patterns
    *("config.json", "metrics.jsonl", "metrics.jsonl.damaged", "summary.json", "curves.png"),
    *("discriminator*.safetensors", "generator*.safetensors"),
    *("checkpoints/step_*.pt", "samples/*.png"),
)
FORMAT = 1  # of the state in a checkpoint; before there was a number, it held other keys
_MISSING = (FileNotFoundError, NotADirectoryError)
_ODD_VALUES = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


class RunFolder:
    """output/<run>/: config.json, metrics.jsonl, curves.png, checkpoints/ and what the task adds.

    settings: the run's arguments by name, with `script` and `width` among them. A folder that
    already holds a run is taken up again if its settings are the same, but for those named in
    `may_change`. Nothing is written before `begin`. Leaving its context gives the lock back.
    writer: False on the ranks of a run that leave all writing to rank 0; they may call everything.
    Raises RunError where the settings differ, where `resume` is "never" and a run is there, or
    where another process is at work on it.
    """

    def __init__(self, path, settings, may_change=(), resume="auto", writer=True):
        self.path, self.settings, self.writer = Path(path), settings, writer
        self.checkpoints = self.path / "checkpoints"
        self.metrics_path = self.path / "metrics.jsonl"
        self.config_path = self.path / "config.json"
        self.failed = {}  # what could not be written at the last try: why
        self._lock = FolderLock(self.path)
        self._unwritten = b""  # log lines that could not be written yet
        if not writer:
            return
        self.config = _read_config(self.config_path)
        if self.config is None:
            return
        if resume == "never":
            raise RunError(
                f"{self.path} already holds a run; give another --output_dir, or --resume auto to "
                "go on with it"
            )
        before = {name: ADDED[name] for name in settings.keys() & ADDED.keys()}
        before |= without_deleted(self.config.get("settings", {}))
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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def lock(self):
        """Take the run's lock, where it can be written; `begin` does in any case.

        A finished run on a read-only mount has none. Raises RunError where another process holds
        it.
        """
        place = self._lock.path if self._lock.path.exists() else self.path
        if self.writer and os.access(place, os.W_OK):
            self._lock.take()

    def close(self):
        """Give the lock back."""
        self._lock.release()

    def attempt(self, what, action, *args):
        """action(*args), which writes `what`; a failure is told and remembered, not raised.

        Returns what the action returns, None where it failed or this rank is no writer.
        """
        if not self.writer:
            return None
        try:
            if self._lock.is_lost():
                raise OSError(f"{self.path} is no longer this run's: it was removed or replaced")
            result = action(*args)
        except OSError as error:
            self.failed[what] = error.strerror or str(error)
            print(f"warning: could not write {what}: {self.failed[what]}", file=sys.stderr)
            return None
        self.failed.pop(what, None)
        return result

    def write(self, file, content):
        """Put bytes at a path in the folder, `samples/001.png` say. Raises OSError."""
        path = self.path / file
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)

    def raise_if_anything_failed(self):
        """At the end of a run. Raises Stopped where the last try to write a file failed."""
        if self.failed:
            what = "; ".join(f"{name} ({why})" for name, why in self.failed.items())
            raise Stopped(SAVE_FAILED, f"the run ended, but could not write {what}")

    def raise_diverged(self, step, metrics):
        """Stop a run whose metrics or gradients are not finite. Raises Stopped."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        raise Stopped(
            DIVERGED,
            f"diverged at step {step}: {', '.join(bad) or 'the gradient'} not finite; the step was "
            f"not taken and not saved; last good checkpoint: "
            f"{next(iter(list_checkpoints(self.checkpoints)), 'none')}",
        )

    def save_state(self, step, state):
        """Write the run's state after `step` as a checkpoint.

        Returns its path, or None where it could not be written; that is told and remembered.
        """
        state = state | {"of": self._identity(), "format": FORMAT, "step": step}
        if self.writer and (bad := not_finite(state)):
            self.raise_diverged(step, dict.fromkeys(bad, math.nan))

        def save():
            self._append()  # a checkpoint without the log lines before it would lose them
            path = save_checkpoint(self.checkpoints, step, state)
            (self.path / "summary.json").unlink(missing_ok=True)  # of the checkpoint before
            return path

        return self.attempt("the checkpoint", save)

    def load_state(self):
        """The state of the newest whole checkpoint, or None for a run that is to begin.

        Raises CheckpointError where the checkpoints are damaged or of another network, RunError
        where they are gone but the run's results are there.
        """
        state = load_latest(self.checkpoints)
        if state is None:
            if (self.path / "summary.json").exists():
                raise RunError(
                    f"{self.path} holds a finished run without its checkpoints, so it cannot go "
                    "on; give another --output_dir"
                )
            return None
        with self.restoring():
            if not isinstance(state, dict) or state.get("of") != self._identity():
                raise CheckpointError(
                    f"the checkpoint in {self.checkpoints} is of another network or script than "
                    f"{self._identity()}; give another --output_dir"
                )
            if type(state.get("step")) is not int or state["step"] < 0:
                raise CheckpointError(
                    f"the checkpoint in {self.checkpoints} does not tell its step"
                )
            if bad := not_finite(state):
                raise CheckpointError(
                    f"the checkpoint in {self.checkpoints} is not finite in {bad[0]}"
                )
        return state

    def check_format(self, state):
        """Raises RunError where a run is to go on from a state of another version's format."""
        with self.restoring():
            same = bool(state.get("format") == FORMAT)
        if not same:
            commit = (self.config or {}).get("git_commit", "unknown")
            raise RunError(
                f"the checkpoint in {self.checkpoints} was written by another version of this "
                f"program (config.json: commit {commit}), which "
                "has to finish the run; give another --output_dir to begin a new one"
            )

    @contextlib.contextmanager
    def restoring(self):
        """Raises CheckpointError where a state of the right origin does not fit all the same."""
        try:
            yield
        except (*_ODD_VALUES, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"the checkpoint in {self.checkpoints} does not fit this program: {reason}"
            ) from None

    def _identity(self):
        return {"script": self.settings["script"], "width": self.settings["width"]}

    def begin(self, step, device):
        """Write config.json, or that the run goes on after `step`, and make the folders.

        device: in words. Raises RunError where the folder cannot be written.
        """
        if not self.writer:
            return
        config = self.config or {"settings": self.settings, "device": device, **environment()}
        if self.config is not None:
            entry = {"after_step": step, "device": device, **environment()}
            before = config["settings"]
            entry["changed"] = {k: v for k, v in self.settings.items() if before.get(k) != v}
            config = config | {"resumed": [*config.get("resumed", []), entry]}
        try:
            log = self._read_log()  # first: where it cannot be read, nothing is changed
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock.take()
            if self.config is None and self.config_path.exists():
                raise RunError(f"another process has just begun a run in {self.path}")
            there = [path for name in FILES for path in self.path.glob(name) if path.is_file()]
            if self.config is None and step == 0 and there:
                raise RunError(f"{there[0]} is not of this run; give another --output_dir")
            for name in FILES:
                remove_temporaries(self.path / name)
            for path in list_checkpoints(self.checkpoints):
                if checkpoint_step(path) > step:  # damaged, or the run would go on from there
                    path.rename(path.with_name(path.name + ".damaged"))
            write_atomically(self.config_path, json.dumps(config, indent=2).encode())
            self._rewind(step, *log)
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}") from None

    def log(self, record):
        """Append one line to metrics.jsonl; what cannot be written is kept for the next line."""
        self._unwritten += json.dumps(record).encode() + b"\n"
        self.attempt(self.metrics_path.name, self._append)

    def _append(self):
        if not self._unwritten:
            return
        # Unbuffered: a buffer would write its rest after the truncation below.
        with open(self.metrics_path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                left = memoryview(self._unwritten)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)  # no half line in front of the next one
                raise
        self._unwritten = b""

    def records(self):
        """The records of metrics.jsonl, oldest first; lines that are damaged are left out."""
        return self._read_log()[0]

    def _read_log(self):
        """(the records, whether whole lines are damaged: not a last one that was cut short)."""
        try:
            *lines, last = self.metrics_path.read_bytes().split(b"\n")
        except _MISSING:
            return [], False
        records, damaged = [], False
        for line in filter(None, (*lines, last)):
            record = parse_json(line)
            if isinstance(record, dict) and type(record.get("step")) is int:
                records.append(record)
            else:
                damaged |= line is not last
        return records, damaged

    def _rewind(self, step, records, damaged):
        # Forget what was logged after `step`: a resumed run goes through those steps again.
        if damaged:
            kept = self.metrics_path.with_name(self.metrics_path.name + ".damaged")
            write_atomically(kept, self.metrics_path.read_bytes())
            print(f"warning: lines of {self.metrics_path} are damaged; it stays as {kept}")
        lines = "".join(json.dumps(r) + "\n" for r in records if r["step"] <= step)
        write_atomically(self.metrics_path, lines.encode())

    def write_summary(self, summary):
        """Keep the final metrics, a dict with `step`, as summary.json: it marks a finished run."""
        data = json.dumps(summary, indent=2).encode()
        self.attempt("summary.json", write_atomically, self.path / "summary.json", data)

    def finished_summary(self, step, total_steps):
        """The final metrics where the run has come to its end already, else None.

        Raises RunError where they cannot be read; damaged ones are as none.
        """
        if step < total_steps:
            return None
        summary = None
        with contextlib.suppress(*_MISSING):
            summary = _read_json(self.path / "summary.json")
        whole = isinstance(summary, dict) and isinstance(summary.get("test_accuracy"), int | float)
        return summary if whole and summary.get("step") == step else None


def _read_json(path):
    """What a file says, None where it says nothing. Raises one of _MISSING, RunError."""
    try:
        return parse_json(path.read_bytes())
    except _MISSING:
        raise
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None


def _read_config(path):
    try:
        config = _read_json(path)
    except _MISSING:
        return None
    kinds = {"settings": dict, "resumed": list}
    well_formed = isinstance(config, dict) and all(
        isinstance(config.get(name, kind()), kind) for name, kind in kinds.items()
    )
    if not well_formed:
        raise RunError(f"{path} is damaged; give another --output_dir")
    return config
