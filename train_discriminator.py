"""Train the eight-layer discriminator as a classifier: the baseline, which never saw a generator.

    python train_discriminator.py --data_dir data

Leaves in output/baseline: config.json, metrics.jsonl, curves.png, summary.json, checkpoints/, and
the weights after the last epoch (discriminator.safetensors) and of the best test accuracy
(discriminator_best.safetensors): their moving average, unless --ema_decay 0. The same command again
goes on where it stopped.
"""

from functools import partial

import torch
import torch.nn.functional as F

from data_tools import DataError
from discriminator import Discriminator
from engine import cli
from engine.device import DeviceError
from engine.output_folder import RunError
from engine.weights import CheckpointError
from metrics.classifier import evaluate
from training import panels
from training.augmentation import (
    alternating_flips,
    augment,
    sample_augmentation,
    sample_shift,
    shift,
)
from training.distributed import RanksError
from training.ema import EMA
from training.optimizers import make_optimizer
from training.run import TrainingRun
from training.schedules import drops, set_learning_rates, triangle

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
        "flip": "random",
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
        "flip": "random",
        "hole": 8,
        "label_smoothing": 0.1,
        "ema_decay": 0.999,
    },
}
MUON_ONLY = ("kernel_lr", "normalise", "weight_decay")  # flags that do nothing with adam
USER_ERRORS = (DeviceError, DataError, CheckpointError, RunError, RanksError)
AUGMENTATION, FLIPS = range(2)  # names of the random streams
BEST = "discriminator_best.safetensors"


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
            "choices": ("crop", "shift"),
            "help": "of every training image; crop: resized crop, flip, colour jitter; "
            "shift: by up to 4 pixels, flip, hole",
        },
        "flip": {
            "choices": ("random", "alternating"),
            "help": "alternating: each image is mirrored in every other epoch, not by chance",
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
    cli.add_data_arguments(parser, training=True)
    cli.add_hold_out_argument(parser)
    cli.add_device_arguments(parser)
    cli.add_run_arguments(parser, "output/baseline")
    args = cli.fill_in_recipe(
        parser,
        parser.parse_args(argv),
        RECIPES,
        conditions=(
            (MUON_ONLY, "--optimizer muon", lambda args: args.optimizer == "muon"),
            (["lr_drop_epochs"], "--schedule drops", lambda args: args.schedule == "drops"),
            (["warmup"], "--schedule triangle", lambda args: args.schedule == "triangle"),
            (["hole"], "--augmentation shift", lambda args: args.augmentation == "shift"),
        ),
    )
    if args.optimizer == "muon" and not args.kernel_lr:
        parser.error("--optimizer muon needs a --kernel_lr above 0: the kernels would stay put")
    return args


# ------------------------------------------------------------------------------ the method


def learning_rate_factor(args, step, steps_per_epoch):
    """What the largest learning rates are multiplied by at `step`, from 0."""
    if args.schedule == "drops":
        return drops(step // steps_per_epoch, args.lr_drop_epochs)
    return triangle(step, args.epochs * steps_per_epoch, args.warmup)


def sample(args, run, train_set, batch):
    """Random parameters of the augmentation of a batch, the images of these numbers."""
    draw = sample_augmentation if args.augmentation == "crop" else sample_shift
    drawn = draw(len(batch), run.stream(AUGMENTATION, run.step))
    if args.flip == "alternating":
        epoch = run.step // run.steps_per_epoch
        flips = alternating_flips(len(train_set), epoch, run.stream(FLIPS))
        drawn = drawn._replace(flip=flips[batch])
    return drawn


def augmented(args, images, drawn):
    """images uint8 (b, 3, 32, 32) -> float32 in [-1, 1], changed as `drawn` says for each."""
    return (
        augment(images, drawn) if args.augmentation == "crop" else shift(images, drawn, args.hole)
    )


def update_classifier(run, args, discriminator, ema, optimizer, step, share, images, labels):
    """One step on the cross-entropy of the class head, and of the moving average.

    step: its number, from 1, a tensor; share: of the batch's images that this process has, a
    tensor; images: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,).
    Returns sums over the images, left on the device: reading them here would make the CPU wait.
    """
    with run.autocast():
        _, class_logits = discriminator(images)
    class_logits = class_logits.float()
    loss = F.cross_entropy(class_logits, labels, label_smoothing=args.label_smoothing)
    discriminator.zero_grad(set_to_none=True)
    loss.backward()
    metrics = {
        "train_loss": loss.detach() * len(images),
        "train_accuracy": 100 * (class_logits.argmax(1) == labels).sum().float(),
    }
    run.take_step(optimizer, discriminator, loss, step, share)
    ema.update(discriminator, step.double() - 1)
    return metrics


def train(args):
    """Run or resume the training that the arguments describe; returns the final metrics.

    Raises one of USER_ERRORS for what the user can mend, Stopped where the run ends early.
    """
    with TrainingRun(args, "train_discriminator.py", panels.CLASSIFIER) as run:
        train_set, test_set = run.load_data()
        torch.manual_seed(args.seed)  # for the initial weights; drawn on the CPU, the same anywhere
        discriminator = run.accelerated(Discriminator(args.width, len(train_set.class_names)))
        ema = EMA(discriminator, args.ema_decay)
        optimizer = make_optimizer(
            args.optimizer,
            discriminator,
            lr=args.lr,
            kernel_lr=args.kernel_lr,
            weight_decay=args.weight_decay,
            normalize=args.normalise,
            dtype=torch.bfloat16 if run.precision == "bf16" else torch.float32,
        )
        update = run.captured(partial(update_classifier, run, args, discriminator, ema, optimizer))
        metrics = {}

        def exports():
            described = {"weights": ema.name, "critic": "none"} | metrics
            return {"discriminator.safetensors": (ema.model, described)}

        if summary := run.start(model=discriminator, ema=ema, optimizer=optimizer):
            return summary
        while run.step < run.total_steps:
            set_learning_rates(optimizer, learning_rate_factor(args, run.step, run.steps_per_epoch))

            # The whole batch and its random numbers; then this process's shard of both.
            batch = run.batch()
            drawn = run.shard(sample(args, run, train_set, batch))
            shard = run.shard(batch)
            images = augmented(args, train_set.images[shard], drawn)
            step = torch.full((), run.step + 1, device=run.device)
            share = torch.full((), len(shard) / len(batch), device=run.device)
            run.advance(update(step, share, images, train_set.labels[shard]), count=len(shard))

            if run.log_due:
                record = run.record()
                if run.epoch_ends:
                    metrics = evaluate(ema.model, test_set, run.precision, run)
                    record |= {name: metrics[name] for name in ("test_loss", "test_accuracy")}
                run.log(record)
            if run.epoch_ends:
                best, accuracy = {"weights": ema.name} | metrics, metrics["test_accuracy"]
                run.keep_best(BEST, "test_accuracy", accuracy, ema.model, best)
            run.save_if_due(exports)
            run.stop_if_asked()

        metrics = metrics or evaluate(ema.model, test_set, run.precision, run)
        best_accuracy = run.best_value(BEST, "test_accuracy", metrics["test_accuracy"])
        summary = run.finish(exports, {"best_test_accuracy": best_accuracy, **metrics})
        accuracy = metrics["test_accuracy"]
        print(f"{run.evaluated_on} accuracy {accuracy:.2f} % (best epoch {best_accuracy:.2f} %)")
        for name, accuracy in metrics["per_class_accuracy"].items():
            print(f"  {name:<12} {accuracy:6.2f} %")
        return summary


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(train, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
