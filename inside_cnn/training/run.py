"""The mechanics of a training run, which a training script calls from its own loop."""

import contextlib
import json
import math
import sys

import torch

from data_tools import epoch_order, load_dataset
from inside_cnn.core.device import (
    autocast,
    describe_device,
    keep_freed_memory,
    peak_memory,
    pick_device,
    pick_precision,
    random_stream,
)
from inside_cnn.core.progress import Progress
from inside_cnn.engine.cli import DIVERGED, MAY_CHANGE, Stopped
from inside_cnn.engine.plots import curves_figure, save_figure
from inside_cnn.engine.weights import export_bytes
from inside_cnn.training.checkpoint import list_checkpoints
from inside_cnn.training.cuda_graph import CapturedStep
from inside_cnn.training.distributed import Ranks, check_batches
from inside_cnn.training.optimizers import Combined, keep_learning_rates_on
from inside_cnn.training.run_folder import RunFolder, recorded_precision
from inside_cnn.training.stopping import FiniteGuard, StopSignal, Timer, stopped
from inside_cnn.training.tensorboard import TensorBoard


class TrainingRun(contextlib.AbstractContextManager):
    """Device, processes, folder, resume, stops, logs and saves of one run; the script has the loop.

    args: what a training script's parse_args returned; script: its name; panels: see panels.py.
    Usage as in train_gan.py: `load_data`, `start`, after each step `advance`, `log` and
    `save_if_due`, and `finish`. All processes make the same calls.

    step: number of steps taken; precision: "fp32" or "bf16"; compiled: whether LayerNorm is
    compiled and, with one process, steps are CUDA graphs. Nothing is written before `start`.
    Leaving the context releases the lock, restores the signal handlers and ends the process group.
    """

    def __init__(self, args, script, panels):
        self.args, self.script, self.panels = args, script, panels
        self.save_timer, self.stop_timer = Timer(args.save_every_minutes), Timer(args.max_minutes)
        self.curves_timer = Timer(0.5)  # plotting them after every epoch would slow down a GPU
        self.step = 0
        self._totals = {}  # {metric: (sum since the last record, number of summands)}
        self._best = {}  # {exported file: (name of a score, its highest value)}
        self._order = None  # of the images in this epoch
        with contextlib.ExitStack() as undo:
            self.ranks = undo.enter_context(Ranks())
            self.shard = self.ranks.shard
            before = self.ranks.from_main(lambda: recorded_precision(args.output_dir))
            self.ranks.together(lambda: self._pick_device(before))
            self.ranks.use(self.device)
            self.compiled = args.compile == "auto" and self.device.type == "cuda"
            self.guard = FiniteGuard(self.device)
            keep_freed_memory()
            self._undo = undo.pop_all()

    def _pick_device(self, precision_before):
        """precision_before: of the run to resume, or None; --precision auto means the same."""
        self.device = pick_device(self.args.device)
        self.precision = pick_precision(self.args.precision, self.device)
        if self.args.precision == "auto" and precision_before not in (None, self.precision):
            self.precision = precision_before
            print(f"--precision auto: {self.precision}, with which this run started")
        self._tensorboard = TensorBoard(self.args.tensorboard and self.ranks.main)

    def __exit__(self, *error):
        return self._undo.__exit__(*error)

    # ------------------------------------------------------------------------------ start

    def load_data(self, drop_last=False):
        """(train, test) on the device; with --hold_out, `test` is held out of the training images.

        drop_last: leave out the last, smaller batch of an epoch, and give every process the same
        number of images of a batch, at least 2 (BatchNorm needs them). Raises UserError.
        """
        args, ranks = self.args, self.ranks
        sets = ranks.main_first(lambda: load_dataset(args.dataset, args.data_dir))
        self.evaluated_on = "held-out" if args.hold_out else "test"
        if args.hold_out:
            sets = ranks.together(lambda: sets[0].hold_out(args.hold_out))
            print(f"evaluated on {args.hold_out} held-out training images, not on the test set")
        settings = vars(args) | {"script": self.script, "precision": self.precision}
        for limit, part in zip(("limit_train", "limit_test"), sets, strict=True):
            if settings[limit] and settings[limit] >= len(part):
                settings[limit] = None
        train_set = sets[0].first(args.limit_train).to(self.device)
        test_set = sets[1].first(args.limit_test).to(self.device)
        count, batch_size = len(train_set), args.batch_size
        ranks.together(lambda: check_batches(count, batch_size, ranks.world, drop_last))
        self._images = count
        batches = count / batch_size
        self.steps_per_epoch = math.floor(batches) if drop_last else math.ceil(batches)
        self.scheduled_steps = args.epochs * self.steps_per_epoch
        self.total_steps = min(self.scheduled_steps, args.max_steps or sys.maxsize)

        settings["dataset"] = train_set.name  # what `auto` chose
        if train_set.digest:
            settings["data_sha256"] = train_set.digest
        # What a recipe sets is compared. The last two are flags of train_gan.py.
        may_change = {*MAY_CHANGE, "recipe", "evaluate_every", "judge"}
        if args.schedule in ("linear", "triangular"):  # they depend on the number of epochs
            may_change.remove("epochs")
        self.folder = RunFolder(args.output_dir, settings, may_change, args.resume, ranks.main)
        self._metadata = {"recipe": args.recipe, "hold_out": args.hold_out, **test_set.metadata()}
        print(f"data: {train_set.source}")
        print(
            f"run: {self.folder.path}, recipe {args.recipe}, {self.total_steps} steps, "
            f"{self.device}, {self.precision}"
        )
        return train_set, test_set

    def captured(self, update):
        """The update, a function of tensors, captured as a CUDA graph if there is one process."""
        return CapturedStep(update, self.compiled and self.ranks.world == 1)

    def start(self, **parts):
        """Begin the run, or resume it from its newest checkpoint.

        parts: {name: network, optimizer or anything else with a state_dict}, saved in checkpoints.
        Returns the summary if the run is already finished, else None.
        """
        folder, ranks = self.folder, self.ranks
        self._parts = parts
        self._optimizers = [part for part in parts.values() if isinstance(part, Combined)]
        if self.compiled:  # captured steps read the learning rates from the device
            for optimizer in self._optimizers:
                keep_learning_rates_on(self.device, optimizer)
        self._undo.callback(folder.close)
        self._signal = self._undo.enter_context(StopSignal())
        state, summary = ranks.from_main(lambda: folder.open(self.total_steps))
        if summary is not None:
            accuracy = summary["test_accuracy"]
            print(f"finished already: {self.evaluated_on} accuracy {accuracy:.2f} %; nothing to do")
            return summary
        if state is not None:
            ranks.together(lambda: self._restore(state))
            print(f"resumed after step {self.step}")
        else:
            for part in parts.values():
                ranks.broadcast(part)
        ranks.on_main(lambda: folder.begin(self.step, describe_device(self.device)))
        self._tensorboard.begin(folder, self.step)
        self.progress = Progress(
            folder.path.name, self.total_steps, self.args.batch_size, self.panels.line, self.step
        )
        self._undo.callback(self.progress.close)
        return None

    def _restore(self, state):
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        self.step, self._best = state["step"], dict(state["best"])
        for name, total in state["totals"].items():
            self._totals[name] = self.ranks.unstack(total).to(self.device)

    # ------------------------------------------------------------------------------ one step

    def batch(self):
        """Indices of the images of this step for all processes: int64 (b,) on the device."""
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if index == 0 or self._order is None:  # a new epoch; a resumed run
            self._order = epoch_order(self._images, self.args.seed, epoch).to(self.device)
        batch = self._order[index * self.args.batch_size : (index + 1) * self.args.batch_size]
        self._images_of_step = len(batch)
        return batch

    def stream(self, *name):
        """The torch.Generator of that name on the device, see random_stream."""
        return random_stream(self.device, self.args.seed, *name)

    def autocast(self):
        """The context in which a network's forward pass runs."""
        return autocast(self.device, self.precision)

    def take_step(self, optimizer, network, loss, step, share=None):
        """Step the optimizer with the gradients of all processes, if these and the loss are finite.

        loss: mean over the images of this process; afterwards over all images. step: its number,
        from 1, a tensor; share: images on this process / images on all; None: equal shares.
        """
        share = 1 / self.ranks.world if share is None else share
        loss = self.ranks.all_reduce_gradients(network, loss, share)
        self.guard.take_step(optimizer, loss, step)

    def advance(self, metrics, count=1):
        """Count a step. Returns the log record of the steps since the last one, {} if none is due.

        metrics: {name: sum over `count` images or batches, a scalar on the device}. A record has
        their means, the learning rates, the speed and the memory. Raises Stopped after divergence.
        """
        for name, value in metrics.items():
            entry = torch.stack([value, torch.full_like(value, count)])
            self._totals[name] = self._totals[name] + entry if name in self._totals else entry
        self.step += 1
        self._stop_if_diverged(self.step)
        self.progress.step(self._images_of_step)
        every = self.args.log_every_steps
        if not (self.epoch_ends or (every and self.step % every == 0)):
            return {}
        self._stop_if_diverged()
        record = self._position()
        for name, total in self._totals.items():
            total, count = self.ranks.all_reduce(total).tolist()
            record[name] = total / count
        self._totals = {}
        for optimizer in self._optimizers:
            record |= optimizer.learning_rates()
        record["images_per_second"] = round(self.progress.images_per_second(), 1)
        record["peak_memory_gb"] = round(peak_memory(self.device) / 1e9, 2)
        return record

    def _stop_if_diverged(self, step=None):
        if (bad := self.guard.bad_step(step)) > 0:
            sums = {n: self.ranks.all_reduce(t)[0].item() for n, t in self._totals.items()}
            names = ", ".join(name for name, value in sums.items() if not math.isfinite(value))
            last = next(iter(list_checkpoints(self.folder.checkpoints)), "none")
            raise Stopped(
                DIVERGED,
                f"diverged at step {bad}: {names or 'the gradient'} not finite; weights did not "
                f"change; last checkpoint: {last}",
            )

    # ------------------------------------------------------------------------------ log and saves

    @property
    def epoch(self):
        """The epoch of the last step, from 1; 0 before the first step."""
        return math.ceil(self.step / self.steps_per_epoch)

    @property
    def epoch_ends(self):
        """Whether the last step ended an epoch or the run."""
        return self.step % self.steps_per_epoch == 0 or self.step == self.total_steps

    def _position(self):
        return {"step": self.step, "epochs_done": round(self.step / self.steps_per_epoch, 4)}

    def log(self, record):
        """Append a record to metrics.jsonl, print it, and plot the curves at times; {}: nothing."""
        if not record:
            return
        self.folder.log(record)
        self._tensorboard.log(record)
        self.progress.report(record)
        if self.epoch_ends and self.step < self.total_steps and self.curves_timer.is_due():
            self._plot_curves()
        self.progress.start_lap()

    def keep_best(self, file, score_name, value, network, metadata):
        """Export the network if the value is higher than all earlier ones of the same score."""
        best_name, best = self._best.get(file, (None, None))
        if (best_name != score_name or value > best) and self._export(file, network, metadata):
            self._best[file] = score_name, value

    def last_record(self):
        """The record of the last step; its position only, if none was logged then."""
        last = (self.folder.records() or [{}])[-1]
        return last if last.get("step") == self.step else self._position()

    def save_image(self, file, make):
        """Write the PNG that `make` returns into the run's folder, from rank 0."""
        if png := self.folder.attempt(file, make, Exception):  # a figure never ends a run
            self._tensorboard.add_image(png, self.step)
            self.folder.write(file, png)

    def _export(self, file, network, metadata):
        """Returns whether the file was written, by rank 0."""
        metadata = self._metadata | self._position() | metadata
        return self.ranks.main and self.folder.write(file, export_bytes(network, metadata))

    def _export_all(self, exports):
        for file, (network, metadata) in exports.items():
            self._export(file, network, metadata)

    def save_if_due(self, exports, metrics):
        """Write a checkpoint if one is due, and every --save_every_epochs the exports too.

        exports: a function of the metrics that returns {file: (network, metadata)}.
        Raises Stopped, after a checkpoint, if a signal arrived or the time is up. All processes
        decide together.
        """
        signal_number, due, time_up = self.ranks.agree(
            self._signal.received, self.save_timer.is_due(), self.stop_timer.is_due()
        )
        epoch_due = self.epoch_ends and self.epoch % self.args.save_every_epochs == 0
        if epoch_due or due or signal_number or time_up or self.step == self.total_steps:
            self._stop_if_diverged()
            self.save_timer.reset()
            state = {
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
                "totals": {name: self.ranks.stack(t) for name, t in self._totals.items()},
                "best": self._best,
            }
            saved = self.folder.save_state(self.step, state)
        if epoch_due and self.step < self.total_steps:  # else `finish` does it
            self._export_all(exports(metrics))
        if self.epoch_ends:
            self.progress.start_lap()
        if (signal_number or time_up) and self.step < self.total_steps:
            self.progress.close()
            self._plot_curves()
            saved = self.ranks.from_main(lambda: saved)  # all wait for rank 0's write
            raise stopped(signal_number, self.step, saved)

    def finish(self, exports, metrics):
        """Write the curves, the exports and the summary: the metrics and the step. Returns it.

        exports: {file: (network, metadata)}. Raises Stopped if something could not be written.
        """
        self.progress.close()
        self._plot_curves()
        self._export_all(exports)
        summary = metrics | {"step": self.step}
        if not self.folder.failed:  # a folder with a summary holds a finished run
            self.folder.write("summary.json", json.dumps(summary, indent=2).encode())
        self.ranks.on_main(self.folder.raise_if_anything_failed)
        print(f"curves: {self.folder.path / 'curves.png'}")
        print(f"peak memory: {peak_memory(self.device) / 1e9:.2f} GB")
        return summary

    def _plot_curves(self):
        self.curves_timer.reset()

        def plot():
            if figure := curves_figure(self.folder.records(), self.panels.curves):
                save_figure(figure, self.folder.path / "curves.png")

        self.folder.attempt("curves.png", plot, Exception)  # a figure never ends a run
