"""Train the eight-layer discriminator as a classifier: the baseline, which never saw a generator.

    python train_discriminator.py --data_dir data

Leaves in output/baseline: config.json, metrics.jsonl, curves.png, summary.json, checkpoints/, and
the weights after the last epoch (discriminator.safetensors) and of the best test accuracy
(discriminator_best.safetensors): their moving average, unless --ema_decay 0. The same command again
goes on where it stopped.
"""

import copy
import sys

import torch
import torch.nn.functional as F

from data_tools import DataError, epoch_order, load_dataset
from discriminator import Discriminator
from engine import cli
from engine.cli import SAVE_FAILED
from engine.device import (
    DeviceError,
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
from engine.weights import CheckpointError, export_model
from layers.modules import prepare_for_cuda
from metrics.classifier import evaluate
from training import panels, stopping
from training.augmentation import (
    Augmentation,
    Shift,
    augment,
    sample_augmentation,
    sample_shift,
    shift,
)
from training.cuda_graph import Recorded
from training.distributed import Ranks, RanksDiffer
from training.ema import update_average
from training.optimizers import keep_rates_on, make_optimizer, scale_rates
from training.run_folder import RunError, RunFolder
from training.schedules import drops, triangle

RECIPES = {
    # The assignment's baseline: Adam, the rate divided by 10 after epoch 50 and by 100 after 75.
    "classic": {
        "epochs": 100,
        "batch_size": 128,
        "width": 196,
        "optimizer": "adam",
        "lr": 1e-4,
        "kernel_lr": 0.0,
        "normalise": False,
        "weight_decay": 0.0,
        "schedule": "drops",
        "lr_drop_epochs": [50, 75],
        "warmup": 0.0,
        "augmentation": "crop",
        "hole": 0,
        "label_smoothing": 0.0,
        "ema_decay": 0.0,
    },
    "muon": {
        "epochs": 32,
        "batch_size": 128,
        "width": 196,
        "optimizer": "muon",
        "lr": 1.5e-3,
        "kernel_lr": 0.02,
        "normalise": True,
        "weight_decay": 0.0,
        "schedule": "triangle",
        "lr_drop_epochs": [],
        "warmup": 0.2,
        "augmentation": "shift",
        "hole": 8,
        "label_smoothing": 0.1,
        "ema_decay": 0.999,
    },
}
MUON_ONLY = ("kernel_lr", "normalise", "weight_decay")  # flags that Adam has no use for
AUGMENTATIONS = {"crop": (sample_augmentation, Augmentation), "shift": (sample_shift, Shift)}
USER_ERRORS = (DeviceError, DataError, CheckpointError, RunError, RanksDiffer)
AUGMENTATION = 0  # the name of the random stream


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__.split("\n\n")[0])
    flags = {
        "epochs": {"type": at_least(1), "help": "passes over the training images"},
        "batch_size": {"type": at_least(1), "help": "images per step"},
        "width": {"type": at_least(1), "help": "channels of every layer"},
        "optimizer": {
            "choices": ("adam", "muon"),
            "help": "muon is for the convolution kernels, with AdamW for all other weights",
        },
        "lr": {"type": at_least(0, float), "help": "largest learning rate of Adam or AdamW"},
        "kernel_lr": {"type": at_least(0, float), "help": "largest learning rate of Muon"},
        "normalise": {"type": cli.switch, "help": "Muon keeps the norm of every kernel"},
        "weight_decay": {"type": at_least(0, float), "help": "of AdamW"},
        "schedule": {
            "choices": ("drops", "triangle"),
            "help": "drops: after each of --lr_drop_epochs the learning rate is divided by 10; "
            "triangle: from 0 up in the --warmup, then down to 0 at the end of --epochs",
        },
        "lr_drop_epochs": {"type": at_least(0), "nargs": "*", "help": "for --schedule drops"},
        "warmup": {"type": at_least(0, float, high=1), "help": "share of the steps, for triangle"},
        "augmentation": {
            "choices": sorted(AUGMENTATIONS),
            "help": "of every training image; crop: resized crop, flip, colour jitter; "
            "shift: by up to 4 pixels, flip, hole",
        },
        "hole": {"type": at_least(0, high=33), "help": "side of the hole in pixels, for shift"},
        "label_smoothing": {
            "type": at_least(0, float, high=1),
            "help": "share of the target that is spread over all classes",
        },
        "ema_decay": {
            "type": at_least(0, float, high=1),
            "help": "of the moving average of the weights, per step, which is then what is tested "
            "and exported; 0: the weights themselves",
        },
    }
    cli.add_recipe_arguments(parser, RECIPES, "muon", flags)
    cli.add_data_arguments(parser)
    cli.add_device_arguments(parser)
    cli.add_run_arguments(parser, "output/baseline")
    args = cli.fill_in_recipe(
        *(parser, parser.parse_args(argv), RECIPES),
        (
            (MUON_ONLY, "--optimizer muon", lambda args: args.optimizer == "muon"),
            (["lr_drop_epochs"], "--schedule drops", lambda args: args.schedule == "drops"),
            (["warmup"], "--schedule triangle", lambda args: args.schedule == "triangle"),
            (["hole"], "--augmentation shift", lambda args: args.augmentation == "shift"),
        ),
    )
    if args.optimizer == "muon" and not args.kernel_lr:
        parser.error("--optimizer muon needs a --kernel_lr above 0: the kernels would stay put")
    return args


def learning_rate_factor(args, step, total_steps, epoch):
    """What the largest learning rates are multiplied by at `step`, in `epoch`, both from 0."""
    if args.schedule == "drops":
        return drops(epoch, args.lr_drop_epochs)
    return triangle(step, total_steps, args.warmup)


def augmented(images, drawn, args):
    """images uint8 (b, 3, 32, 32) -> float32 in [-1, 1], changed as `drawn` says for each."""
    if args.augmentation == "crop":
        return augment(images, drawn)
    return shift(images, drawn, args.hole)


def classifier_backward(discriminator, images, labels, precision, label_smoothing=0.0):
    """Gradients of the cross-entropy; returns the mean loss and the number correct, both detached.

    images: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,).
    Both figures stay on the device: reading them here would make the CPU wait for the GPU.
    """
    with autocast(images.device, precision):
        _, class_logits = discriminator(images)
    class_logits = class_logits.float()
    loss = F.cross_entropy(class_logits, labels, label_smoothing=label_smoothing)
    discriminator.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach(), (class_logits.argmax(1) == labels).sum()


def make_update(args, precision, ranks, guard, model, average, optimizer):
    """The update of train() as a function of tensors alone, which a GPU can record.

    args: label_smoothing and ema_decay of parse_args. The function's arguments: the number of the
    step, from 1, this rank's share of the batch's images, both tensors, images in [-1, 1], labels.
    It returns the sum of their losses, how many are named correctly, and how many they are: (3,).
    """

    def update(number, share, images, labels):
        loss, correct = classifier_backward(model, images, labels, precision, args.label_smoothing)
        count = torch.full_like(loss, len(images))
        counted = torch.stack([loss * count, correct.float(), count])
        loss = ranks.sum_gradients(model, loss, share)
        guard.step(optimizer, loss, number)
        if average:
            update_average(average, model, args.ema_decay, number.double() - 1)
        return counted

    return update


def train(args):
    """Run or resume the training that the arguments describe; returns the final figures.

    Raises one of USER_ERRORS for what the user can mend, runtime.Stopped where the run ends early.
    """
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    ranks = Ranks(device)
    fast = pick_compile(args.compile, device, ranks.world)
    clock = stopping.Clock(args.save_every_minutes, args.max_minutes)
    train_set, test_set = ranks.main_first(lambda: load_dataset(args.dataset, args.data_dir))
    train_set = train_set.first(args.limit_train).to(device)
    test_set = test_set.first(args.limit_test).to(device)
    if args.batch_size > len(train_set):
        raise DataError(f"--batch_size {args.batch_size} is larger than the set ({len(train_set)})")
    if (len(train_set) % args.batch_size or args.batch_size) < ranks.world:
        raise DataError(f"the last batch has fewer images than there are processes ({ranks.world})")
    steps_per_epoch = -(-len(train_set) // args.batch_size)  # the last batch may be smaller
    total_steps = min(args.epochs * steps_per_epoch, args.max_steps or sys.maxsize)

    settings = vars(args) | {"script": "train_discriminator.py"}
    settings |= {"dataset": train_set.name, "precision": precision}  # what `auto` came to
    ranks.check_same(settings | {"images": (len(train_set), len(test_set))})
    may_change = set(cli.MAY_CHANGE)
    may_change -= {"epochs"} if args.schedule == "triangle" else set()  # its rates depend on them
    folder = ranks.together(
        lambda: RunFolder(args.output_dir, settings, may_change, args.resume, ranks.main)
    )
    print(f"data: {train_set.source}")
    print(f"run: {folder.path}, recipe {args.recipe}, {total_steps} steps, {device}, {precision}")

    torch.manual_seed(args.seed)  # for the initial weights; drawn on the CPU, the same anywhere
    model = Discriminator(args.width).to(device)
    prepare_for_cuda(model, device if fast else None)
    average = copy.deepcopy(model).eval() if args.ema_decay else None
    optimizer = make_optimizer(
        *(args.optimizer, model, args.lr, args.kernel_lr),
        weight_decay=args.weight_decay,
        normalise=args.normalise,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    if fast:
        keep_rates_on(device, optimizer)
    parts_of_run = {"model": model, "optimizer": optimizer}
    parts_of_run |= {"average": average} if average else {}
    shown = average or model
    step, best_accuracy = 0, -1.0
    totals = torch.zeros(3, device=device)  # loss, correct and images since the last record

    with folder, stopping.StopSignal() as stop:
        ranks.together(folder.lock)
        state = ranks.from_main(lambda: folder.load_state("cpu"))
        if state is not None:
            with folder.restoring():
                for name, part in parts_of_run.items():
                    part.load_state_dict(state[name])
                step, best_accuracy = state["step"], state["best_accuracy"]
                totals += ranks.unstack(state["totals"]).to(device)
            print(f"resumed after step {step}")
        summary = ranks.from_main(lambda: folder.finished_summary(step, total_steps))
        if summary is not None:
            accuracy = summary["test_accuracy"]
            print(f"finished already: test accuracy {accuracy:.2f} %; nothing to do")
            ranks.close()
            return summary
        ranks.together(lambda: folder.begin(step, describe_device(device)))
        ranks.broadcast(model)
        guard = stopping.FiniteGuard(device)
        update = make_update(args, precision, ranks, guard, model, average, optimizer)
        update = Recorded(update, fast)

        def stop_if_diverged(number=None):
            if (bad := guard.bad_step(number)) > 0:
                folder.raise_diverged(bad, {"train_loss": ranks.sum(totals)[0].item()})

        def draw_curves():
            save_curves(folder.records(), folder.path / "curves.png", panels.CLASSIFIER)

        def save():
            stop_if_diverged()
            clock.saved()
            state = {name: part.state_dict() for name, part in parts_of_run.items()}
            state |= {"best_accuracy": best_accuracy, "totals": ranks.stack(totals)}
            return folder.save_state(step, state | {"step": step})

        def export(name, figures):
            weights = f"EMA {args.ema_decay}" if average else "raw"
            described = {"recipe": args.recipe, "step": step, "weights": weights}
            described |= test_set.facts() | figures
            folder.attempt(name, export_model, shown, folder.path / name, described)

        figures = {}
        order_epoch = None
        progress = Progress("baseline", total_steps, args.batch_size, step)
        while step < total_steps:
            epoch, batch = divmod(step, steps_per_epoch)
            if epoch != order_epoch:
                order_epoch = epoch
                order = epoch_order(len(train_set), args.seed, epoch).to(device)
            factor = learning_rate_factor(args, step, args.epochs * steps_per_epoch, epoch)
            scale_rates(optimizer, factor)

            # This rank's share of the batch, and of the random numbers drawn for the whole of it.
            chosen = order[batch * args.batch_size : (batch + 1) * args.batch_size]
            stream = random_stream(device, args.seed, AUGMENTATION, step)
            sample, form = AUGMENTATIONS[args.augmentation]
            drawn = form(*map(ranks.share, sample(len(chosen), stream)))
            chosen, whole = ranks.share(chosen), len(chosen)
            images = augmented(train_set.images[chosen], drawn, args)
            step += 1
            share = torch.full((), len(chosen) / whole, device=device)
            number = torch.full((), step, device=device)
            totals += update(number, share, images, train_set.labels[chosen])
            stop_if_diverged(step)
            progress.step()

            epoch_ends = step % steps_per_epoch == 0 or step == total_steps
            if epoch_ends or (args.log_every_steps and step % args.log_every_steps == 0):
                stop_if_diverged()
                loss, correct, seen = ranks.sum(totals).tolist()
                totals.zero_()
                speed = round(progress.images_per_second(), 1)
                record = {"step": step, "epochs_done": round(step / steps_per_epoch, 4)}
                record |= {"lr": float(optimizer.param_groups[0]["lr"]), "train_loss": loss / seen}
                record |= {"train_accuracy": 100 * correct / seen}
                if epoch_ends:
                    figures = evaluate(shown, test_set, precision, ranks)
                    record |= {key: figures[key] for key in ("test_loss", "test_accuracy")}
                record["images_per_second"] = speed
                record["peak_memory_gb"] = round(peak_memory(device) / 1e9, 2)
                folder.log(record)
                progress.report(record)
                progress.start_lap()
            if epoch_ends and clock.curves_due():
                folder.attempt("curves.png", draw_curves)
            number, due, time_up = ranks.agree(stop.number, clock.save_due(), clock.time_up())
            best = epoch_ends and figures["test_accuracy"] > best_accuracy
            best_accuracy = figures["test_accuracy"] if best else best_accuracy
            epoch_due = epoch_ends and (epoch + 1) % args.save_every_epochs == 0
            if epoch_due or best or due or number or time_up or step == total_steps:
                saved = save()
            if best:
                folder.keep_as_best(saved)
                export("discriminator_best.safetensors", figures)
            if epoch_due or step == total_steps:
                export("discriminator.safetensors", figures)
            if epoch_ends:
                progress.start_lap()
            if (number or time_up) and step < total_steps:
                progress.close()
                folder.attempt("curves.png", draw_curves)
                saved = ranks.from_main(lambda path=saved: path)  # all wait for rank 0's write
                raise stopping.stopped(number, step, saved, SAVE_FAILED)
        progress.close()

        folder.attempt("curves.png", draw_curves)
        figures = figures or evaluate(shown, test_set, precision, ranks)
        export("discriminator.safetensors", figures)
        summary = {"step": step, "best_test_accuracy": best_accuracy, **figures}
        folder.raise_if_anything_failed()  # before the summary, which would mark the run finished
        folder.write_summary(summary)
        print(f"test accuracy {figures['test_accuracy']:.2f} % (best epoch {best_accuracy:.2f} %)")
        for name, accuracy in figures["per_class_accuracy"].items():
            print(f"  {name:<12} {accuracy:6.2f} %")
        print(f"curves: {folder.path / 'curves.png'}")
        print(f"peak memory: {peak_memory(device) / 1e9:.2f} GB")
        ranks.close()
        folder.raise_if_anything_failed()
        return summary


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(train, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
