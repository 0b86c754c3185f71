"""Train the eight-layer discriminator as a classifier: the baseline, without a generator.

    python train_discriminator.py --data_dir data

Writes to output/baseline: config.json, metrics.jsonl, curves.png, summary.json, checkpoints/ and
discriminator.safetensors, the weights at the last saved epoch (their moving average, unless
--ema_decay 0). The same command resumes a stopped run.
"""

import torch
import torch.nn.functional as F

from discriminator import Discriminator
from inside_cnn.core.device import Stream
from inside_cnn.engine import cli
from inside_cnn.layers.accelerate import accelerate
from inside_cnn.metrics.classifier import evaluate
from inside_cnn.training import augmentation, panels
from inside_cnn.training.ema import EMA
from inside_cnn.training.optimizers import make_optimizer
from inside_cnn.training.run import TrainingRun
from inside_cnn.training.schedules import drops, set_learning_rates, triangular

RECIPES = {
    # The homework's baseline: Adam, learning rate divided by 10 after epochs 50 and 75.
    "classic": {
        "epochs": 100,
        "batch_size": 128,
        "width": 196,
        "optimizer": "adam",
        "lr": 1e-4,
        "muon_lr": 0.0,
        "weight_decay": 0.0,
        "schedule": "drops",
        "lr_drop_epochs": [50, 75],
        "warmup": 0.0,
        "augmentation": "crop",
        "cutout": 0,
        "label_smoothing": 0.0,
        "ema_decay": 0.0,
    }
}
# How it was chosen: benchmarks/recipes.md.
RECIPES["muon"] = RECIPES["classic"] | {
    "epochs": 32,
    "optimizer": "muon",
    "lr": 1.5e-3,
    "muon_lr": 0.02,
    "schedule": "triangular",
    "lr_drop_epochs": [],
    "warmup": 0.2,
    "augmentation": "shift",
    "cutout": 8,
    "label_smoothing": 0.1,
    "ema_decay": 0.999,
}
MUON_ONLY = ("muon_lr", "weight_decay")  # flags that have no effect with adam


def parse_args(argv=None):
    at_least = cli.at_least
    rate, share = {"type": at_least(0, float)}, {"type": at_least(0, float, high=1)}
    parser = cli.Parser(__doc__)
    flags = {
        "epochs": {"type": at_least(1), "help": "passes over the training images"},
        "batch_size": {"type": at_least(1), "help": "images per step"},
        "width": {"type": cli.size, "help": "channels of every layer"},
        "optimizer": {
            "choices": ("adam", "muon"),
            "help": "muon: Muon for convolution kernels, AdamW for the rest",
        },
        "lr": rate | {"help": "largest learning rate of Adam or AdamW"},
        "muon_lr": rate | {"help": "largest learning rate of Muon"},
        "weight_decay": rate | {"help": "of AdamW"},
        "schedule": {
            "choices": ("drops", "triangular"),
            "help": "drops: learning rate divided by 10 after each of --lr_drop_epochs; "
            "triangular: from 0 in the --warmup, then to 0 at the end of --epochs, both linearly",
        },
        "lr_drop_epochs": {"type": at_least(0), "nargs": "*", "help": "for --schedule drops"},
        "warmup": share | {"help": "share of the steps, for --schedule triangular"},
        "augmentation": {
            "choices": ("crop", "shift"),
            "help": "crop: resized crop, flip, color jitter; shift: shift by up to 4 pixels, flip, "
            "cutout",
        },
        "cutout": {"type": at_least(0, high=33), "help": "side of the gray square in pixels"},
        "label_smoothing": share | {"help": "share of the target spread over all classes"},
        "ema_decay": share | {"help": "of the average of the weights that is exported; 0: none"},
    }
    cli.add_recipe_arguments(parser, RECIPES, "muon", flags)
    cli.add_data_arguments(parser, training=True)
    cli.add_device_arguments(parser)
    cli.add_run_arguments(parser, "output/baseline")
    args = cli.fill_in_recipe(
        parser,
        parser.parse_args(argv),
        RECIPES,
        conditions=(
            (MUON_ONLY, "--optimizer muon", lambda args: args.optimizer == "muon"),
            (["lr_drop_epochs"], "--schedule drops", lambda args: args.schedule == "drops"),
            (["warmup"], "--schedule triangular", lambda args: args.schedule == "triangular"),
            (["cutout"], "--augmentation shift", lambda args: args.augmentation == "shift"),
        ),
    )
    if args.optimizer == "muon" and not args.muon_lr:
        parser.error("--optimizer muon needs a --muon_lr above 0")
    return args


# ------------------------------------------------------------------------------ updates


def sample_batch(run, args, train_set):
    """This process's shard of the batch of a step, and its share of all images of the batch.

    images: augmented, float32 (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,).
    Random numbers are sampled for all images, so that they do not depend on the number of
    processes.
    """
    indices, stream = run.batch(), run.stream(Stream.AUGMENTATION, run.step)
    shard = run.shard(indices)
    if args.augmentation == "crop":
        parameters = augmentation.sample_augmentation(len(indices), stream)
        images = augmentation.augment(train_set.images[shard], run.shard(parameters))
    else:
        parameters = augmentation.sample_shift(len(indices), stream)
        images = augmentation.shift(train_set.images[shard], run.shard(parameters), args.cutout)
    return images, train_set.labels[shard], len(shard) / len(indices)


class Classifier:
    """The network, its moving average and its optimizer, and one update of them."""

    def __init__(self, run, args, num_classes=10):
        self.run, self.args = run, args
        torch.manual_seed(args.seed)  # initial weights are sampled on the CPU: the same anywhere
        model = Discriminator(args.width, num_classes)
        self.model = accelerate(model, run.device, run.compiled)
        self.ema = EMA(self.model, args.ema_decay)
        self.optimizer = make_optimizer(
            args.optimizer,
            self.model,
            lr=args.lr,
            muon_lr=args.muon_lr,
            weight_decay=args.weight_decay,
            bf16=run.precision == "bf16",
        )

    def update(self, step, share, images, labels):
        """One step on the cross-entropy of the class head, and of the moving average.

        step: its number, from 1, a tensor; share: images on this process / images on all, a tensor.
        Returns sums over the images, on the device: reading them would make the CPU wait.
        """
        with self.run.autocast():
            _, class_logits = self.model(images)
        class_logits = class_logits.float()
        smoothing = self.args.label_smoothing
        loss = F.cross_entropy(class_logits, labels, label_smoothing=smoothing)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        metrics = {
            "train_loss": loss.detach() * len(images),
            "train_accuracy": 100 * (class_logits.argmax(1) == labels).sum().float(),
        }
        self.run.take_step(self.optimizer, self.model, loss, step, share)
        self.ema.update(self.model, step.double() - 1)
        return metrics

    def exports(self, metrics):
        """{file: (network, metadata)}."""
        metadata = {"weights": self.ema.name, "critic": "none"} | metrics
        return {"discriminator.safetensors": (self.ema.model, metadata)}


def train(args):
    """Run or resume the training that the arguments describe; returns the final metrics.

    Raises UserError, or Stopped if the run ends early.
    """
    with TrainingRun(args, "train_discriminator.py", panels.CLASSIFIER) as run:
        train_set, test_set = run.load_data()
        classifier, metrics = Classifier(run, args, len(train_set.class_names)), {}
        model, ema, optimizer = classifier.model, classifier.ema, classifier.optimizer
        update = run.captured(classifier.update)
        if summary := run.start(model=model, ema=ema, optimizer=optimizer):
            return summary

        while run.step < run.total_steps:
            if args.schedule == "drops":
                factor = drops(run.step // run.steps_per_epoch, args.lr_drop_epochs)
            else:
                factor = triangular(run.step, run.scheduled_steps, args.warmup)
            set_learning_rates(optimizer, factor)
            images, labels, share = sample_batch(run, args, train_set)
            step = torch.full((), run.step + 1, device=run.device)
            share = torch.full((), share, device=run.device)
            record = run.advance(update(step, share, images, labels), count=len(labels))
            if run.epoch_ends:
                metrics = evaluate(ema.model, test_set, run.precision, run.ranks)
                record |= {name: metrics[name] for name in ("test_loss", "test_accuracy")}
            run.log(record)
            run.save_if_due(classifier.exports, metrics)

        metrics = metrics or evaluate(ema.model, test_set, run.precision, run.ranks)
        summary = run.finish(classifier.exports(metrics), metrics)
        print(f"{run.evaluated_on} accuracy {metrics['test_accuracy']:.2f} %")
        for name, accuracy in metrics["per_class_accuracy"].items():
            print(f"  {name:<12} {accuracy:6.2f} %")
        return summary


def main(argv=None):
    return cli.exit_code_of(train, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
