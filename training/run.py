"""The mechanics of a training run, which a training script calls from its own loop."""

import contextlib
import math
import sys

import torch
from torch import nn

from data_tools import epoch_order, load_dataset
from engine.cli import MAY_CHANGE
from engine.device import (
    autocast,
    describe_device,
    keep_freed_memory,
    peak_memory,
    pick_compile,
    pick_device,
    pick_precision,
    random_stream,
)
from engine.plots import save_curves
from engine.progress import Progress
from engine.weights import export_bytes, export_model
from layers.accelerate import accelerate
from training.cuda_graph import CapturedStep
from training.distributed import Ranks, check_batches
from training.made_once import MadeOnce
from training.optimizers import Combined, keep_learning_rates_on
from training.run_folder import RunFolder
from training.schedules import FALL_TO_ZERO
from training.stopping import Clock, FiniteGuard, StopSignal, stopped
from training.tensorboard import TensorBoard


class TrainingRun:
    """Device, processes, folder, resume, stops, log and saves of one run; the loop is the script's.

    args: what a training script's parse_args returned; script: its file name; panels: of
    training/panels.py, what its curves and its lines on the screen show.

        with TrainingRun(args, "train_gan.py", panels.GAN) as run:
            train_set, test_set = run.load_data()
            ...                                        # build networks and optimizers
            if summary := run.start(network=network, optimizer=optimizer):
                return summary                         # it has come to its end before
            while run.step < run.total_steps:
                ...                                    # one step
                run.advance(metrics)
                if run.log_due:
                    run.log(run.record())
                run.save_if_due(exports)
                run.stop_if_asked()
            return run.finish(exports, metrics)

    step: steps taken so far. device, precision ("fp32" or "bf16"), compiled (whether steps are
    captured as CUDA graphs): how it computes. Nothing is written before `start`. Whatever ends the
    context, the lock is given back, the signal handlers are put back, the process group is ended.
    Methods have to be called by all processes of a run alike.
    """

    def __init__(self, args, script, panels):
        self.args, self.script, self.panels = args, script, panels
        self.clock = Clock(args.save_every_minutes, args.max_minutes)
        self.step = 0
        self._totals = {}  # {metric: its sum since the last record and of how many}
        self._best = {}  # {exported file: (what was compared, its highest value)}
        self._order = None  # (epoch, the order of its images)
        with contextlib.ExitStack() as undo:
            self.ranks = undo.enter_context(Ranks())
            self.device = self.ranks.together(lambda: pick_device(args.device))
            self.precision = self.ranks.together(
                lambda: pick_precision(args.precision, self.device)
            )
            self.ranks.use(self.device)
            self.compiled = pick_compile(args.compile, self.device)
            self.guard = FiniteGuard(self.device)
            keep_freed_memory()
            self._tensorboard = self.ranks.together(
                lambda: TensorBoard(args.tensorboard and self.ranks.main)
            )
            undo.callback(self._tensorboard.close)
            self._undo = undo.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._undo.__exit__(*error)

    # ------------------------------------------------------------------------------ the beginning

    def load_data(self, drop_last=False):
        """(train, test) on the device; and opens the run's folder, where settings are compared.

        With --hold_out, `test` is the held-out part of the training images.
        drop_last: leave out an epoch's last, smaller batch, and give every process as many images
        of a batch, at least 2 (BatchNorm needs them). Raises DataError, RunError, RanksError.
        """
        args, world = self.args, self.ranks.world
        sets = self.ranks.main_first(lambda: load_dataset(args.dataset, args.data_dir))
        self.evaluated_on = "held-out" if args.hold_out else "test"
        if args.hold_out:
            sets = self.ranks.together(lambda: sets[0].hold_out(args.hold_out))
            print(f"evaluated on {args.hold_out} held-out training images, not on the test set")
        train_set = sets[0].first(args.limit_train).to(self.device)
        test_set = sets[1].first(args.limit_test).to(self.device)
        count, batch_size = len(train_set), args.batch_size
        self.ranks.together(lambda: check_batches(count, batch_size, world, drop_last))
        self._images = count
        self.steps_per_epoch = count // batch_size if drop_last else -(-count // batch_size)
        self.scheduled_steps = args.epochs * self.steps_per_epoch
        self.total_steps = min(self.scheduled_steps, args.max_steps or sys.maxsize)

        settings = vars(args) | {"script": self.script}
        settings |= {"dataset": train_set.name, "precision": self.precision}  # what auto came to
        if train_set.digest:
            settings["data_sha256"] = train_set.digest
        self.ranks.check_same(settings | {"images": (count, len(test_set))})
        may_change = set(MAY_CHANGE) - ({"epochs"} if args.schedule in FALL_TO_ZERO else set())
        self.folder = self.ranks.together(
            lambda: RunFolder(args.output_dir, settings, may_change, args.resume, self.ranks.main)
        )
        self._made_once = MadeOnce(self.folder)
        self._about = {"recipe": args.recipe, "hold_out": args.hold_out, **test_set.facts()}
        print(f"data: {train_set.source}")
        print(
            f"run: {self.folder.path}, recipe {args.recipe}, {self.total_steps} steps, "
            f"{self.device}, {self.precision}"
        )
        return train_set, test_set

    def captured(self, update):
        """The update, a function of tensors, as a step that a CUDA device captures and replays."""
        return CapturedStep(update, self.compiled)

    def accelerated(self, network):
        """The network on the run's device, its layers swapped for faster ones of equal function."""
        return accelerate(network, self.device, self.compiled)

    def start(self, **parts):
        """Begin the run, or take it up where it stopped.

        parts: {name: network, optimizer or whatever else has a state_dict}, kept in checkpoints.
        Returns the summary of a run that has come to its end, and then does nothing, else None.
        """
        folder, ranks = self.folder, self.ranks
        self._parts = parts
        self._optimizers = [part for part in parts.values() if isinstance(part, Combined)]
        if self.compiled:  # captured steps read the learning rates from the device
            for optimizer in self._optimizers:
                keep_learning_rates_on(self.device, optimizer)
        self._undo.enter_context(folder)
        self._signal = self._undo.enter_context(StopSignal())
        ranks.together(folder.lock)
        state = ranks.from_main(folder.load_state)
        reached = state["step"] if state else 0
        summary = ranks.from_main(lambda: folder.finished_summary(reached, self.total_steps))
        if summary is not None:
            self._tensorboard.begin(folder, reached, self.steps_per_epoch)
            accuracy = summary["test_accuracy"]
            print(f"finished already: {self.evaluated_on} accuracy {accuracy:.2f} %; nothing to do")
            return summary
        if state is not None:
            ranks.from_main(lambda: folder.check_format(state))
            ranks.together(lambda: self._restore(state))
            print(f"resumed after step {self.step}")
        ranks.together(lambda: folder.begin(self.step, describe_device(self.device)))
        self._tensorboard.begin(folder, self.step, self.steps_per_epoch)
        ranks.broadcast(*(part for part in parts.values() if isinstance(part, nn.Module)))
        self.progress = Progress(
            folder.path.name, self.total_steps, self.args.batch_size, self.panels.line, self.step
        )
        self._undo.callback(self.progress.close)
        return None

    def _restore(self, state):
        with self.folder.restoring():
            for name, part in self._parts.items():
                part.load_state_dict(state["parts"][name])
            self.step = state["step"]
            self._best = {file: (str(w), float(v)) for file, (w, v) in state["best"].items()}
            self._made_once.load_state_dict(state.get("unwritten", {}))
            for name, total in state["totals"].items():
                if total.shape[1:] != (2,):
                    raise ValueError(f"the sum of {name} is no sum and number")
                self._totals[name] = self.ranks.unstack(total).to(self.device)

    def on_main(self, make):
        """What `make` returns on rank 0, None elsewhere; what it raises there is raised on all."""
        return self.ranks.together(lambda: make() if self.ranks.main else None)

    def from_main(self, make):
        """What `make` returns on rank 0, on every rank: tensors and plain values."""
        return self.ranks.from_main(make)

    # ------------------------------------------------------------------------------ one step

    def batch(self):
        """Which images this step takes, all processes together: int64 (b,) on the device.

        The order of an epoch is a function of the seed and the epoch.
        """
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(self._images, self.args.seed, epoch).to(self.device)
            self._order = epoch, order
        return self._order[1][index * self.args.batch_size : (index + 1) * self.args.batch_size]

    def stream(self, *name):
        """The random stream of that name: a torch.Generator on the device, see random_stream."""
        return random_stream(self.device, self.args.seed, *name)

    def shard(self, batch):
        """This process's rows of a tensor or of every field of a NamedTuple, see Ranks.shard."""
        return self.ranks.shard(batch)

    def all_reduce(self, tensor):
        """The sum of a tensor over the processes, on every one."""
        return self.ranks.all_reduce(tensor)

    def autocast(self):
        """The context in which a network's forward pass runs."""
        return autocast(self.device, self.precision)

    def take_step(self, optimizer, network, loss, step, share=None):
        """The optimizer's step, from the gradients of all processes; none is taken that diverged.

        loss: the mean over this process's images, and afterwards over all; step: its number, from
        1, a tensor; share: images on this process / images on all, the same on each if None.
        """
        share = 1 / self.ranks.world if share is None else share
        loss = self.ranks.all_reduce_gradients(network, loss, share)
        self.guard.take_step(optimizer, loss, step)

    def advance(self, metrics, count=1):
        """A step was taken. metrics: {name: sum of it over `count`, a scalar on the device}."""
        for name, value in metrics.items():
            entry = torch.stack([value, torch.full_like(value, count)])
            self._totals[name] = self._totals[name] + entry if name in self._totals else entry
        self.step += 1
        self._stop_if_diverged(self.step)
        self.progress.step()

    def _stop_if_diverged(self, step=None):
        if (bad := self.guard.bad_step(step)) > 0:
            sums = {n: self.ranks.all_reduce(t)[0].item() for n, t in self._totals.items()}
            self.folder.raise_diverged(bad, sums)

    # ------------------------------------------------------------------------------ log and saves

    @property
    def epoch(self):
        """The epoch that the step just taken belongs to, from 1; 0 before the first step."""
        return -(-self.step // self.steps_per_epoch)

    @property
    def epoch_ends(self):
        """Whether the step just taken ended an epoch, or the run."""
        return self.step % self.steps_per_epoch == 0 or self.step == self.total_steps

    @property
    def log_due(self):
        every = self.args.log_every_steps
        return self.epoch_ends or bool(every and self.step % every == 0)

    def _reached(self):
        return {"step": self.step, "epochs_done": round(self.step / self.steps_per_epoch, 4)}

    def record(self):
        """What the log says of the steps since the last record: means, rates, speed, memory."""
        self._stop_if_diverged()
        record = self._reached()
        for name, total in self._totals.items():
            total, count = self.ranks.all_reduce(total).tolist()
            record[name] = total / count
        self._totals = {}
        for optimizer in self._optimizers:
            record |= optimizer.learning_rates()
        record["images_per_second"] = round(self.progress.images_per_second(), 1)
        record["peak_memory_gb"] = round(peak_memory(self.device) / 1e9, 2)
        return record

    def log(self, record):
        """Append a record to metrics.jsonl, tell it, and draw the curves now and then."""
        self.folder.log(record)
        self._tensorboard.log(record)
        self.progress.report(record)
        at_its_end = self.step == self.total_steps  # then `finish` draws them
        if self.epoch_ends and not at_its_end and self.clock.curves_due():
            self._draw_curves()
        self.progress.start_lap()

    def keep_best(self, file, what, value, network, metadata):
        """Export the network, if the value is above all before of the same `what`.

        A record of another `what` counts no longer.
        """
        if value > self._best_of(file, what):
            self._best[file] = what, value
            about = self._about | self._reached() | metadata
            self.write_once(file, lambda: export_bytes(network, about))

    def write_once(self, file, make):
        """Write what `make` returns, bytes, to the run's folder: what cannot be made again later.

        Where that fails, it is kept, in checkpoints too, and tried again at every save.
        """
        if self.ranks.main:
            content = make()
            self._made_once.write(file, content)
            if file.startswith("samples/"):
                self._tensorboard.show(content, self.step)

    def best_value(self, file, what, value):
        """The larger of the value and of that which `file` was kept for."""
        return max(value, self._best_of(file, what))

    def _best_of(self, file, what):
        best_what, value = self._best.get(file, (what, -math.inf))
        return value if best_what == what else -math.inf

    def last_record(self):
        return (self.folder.records() or [{}])[-1]

    def attempt(self, what, action, *args):
        """action(*args), which writes `what`; a failure is told and remembered, not raised."""
        return self.folder.attempt(what, action, *args)

    def export(self, networks):
        """Write weights to the run's folder. networks: {file name: (network, metadata)}.

        What could not be written is told and remembered.
        """
        for name, (network, metadata) in networks.items():
            about = self._about | self._reached() | metadata
            self.attempt(name, export_model, network, self.folder.path / name, about)

    def save_if_due(self, exports):
        """Write a checkpoint where one is due, and every --save_every_epochs the exports too.

        exports: a function without arguments that returns what `export` takes. Whether a save is
        due, and whether the run is to stop, all processes decide together.
        """
        self._received, due, self._time_up = self.ranks.agree(
            self._signal.received, self.clock.save_due(), self.clock.time_up()
        )
        epoch_due = self.epoch_ends and self.epoch % self.args.save_every_epochs == 0
        asked_to_stop = self._received or self._time_up
        if epoch_due or due or asked_to_stop or self.step == self.total_steps:
            self._stop_if_diverged()
            self.clock.saved()
            self._made_once.retry()
            state = {
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
                "totals": {name: self.ranks.stack(t) for name, t in self._totals.items()},
                "best": self._best,
                "unwritten": self._made_once.state_dict(),
            }
            self._saved = self.ranks.together(lambda: self.folder.save_state(self.step, state))
        if epoch_due:
            self.export(exports())
        if self.epoch_ends:
            self.progress.start_lap()

    def stop_if_asked(self):
        """Raises Stopped after a signal, or where the time is up; the state has just been saved."""
        if (self._received or self._time_up) and self.step < self.total_steps:
            self.progress.close()
            self._draw_curves()
            saved = self.ranks.from_main(lambda: self._saved)  # all wait for rank 0's write
            raise stopped(self._received, self.step, saved)

    def finish(self, exports, metrics):
        """Write what a finished run leaves. Returns its summary: the step and the metrics.

        Raises Stopped where something could not be written.
        """
        self.progress.close()
        self._draw_curves()
        self.export(exports())
        self._made_once.retry()
        # Before the summary, which marks a finished run, and after it.
        self.ranks.together(self.folder.raise_if_anything_failed)
        summary = metrics | {"step": self.step}
        self.folder.write_summary(summary)
        self.ranks.together(self.folder.raise_if_anything_failed)
        print(f"curves: {self.folder.path / 'curves.png'}")
        print(f"peak memory: {peak_memory(self.device) / 1e9:.2f} GB")
        return summary

    def _draw_curves(self):
        self.clock.curves_drawn()
        path = self.folder.path / "curves.png"
        self.attempt(
            path.name, lambda: save_curves(self.folder.records(), path, self.panels.curves)
        )
