"""Train the discriminator and the generator as a class-conditional GAN: ACGAN + WGAN-GP or R3GAN.

    python train_gan.py --data_dir data

Writes to output/gan: config.json, metrics.jsonl, curves.png, samples/, summary.json, checkpoints/,
discriminator.safetensors, generator.safetensors (the moving average), generator_raw.safetensors
and, with --evaluate_every, generator_best.safetensors. The same command resumes a stopped run.

--critic other than `full` trains the discriminator alone, without a part of its loss or against a
generator that does not learn: the control networks of docs/training.md.
"""

import math
from typing import NamedTuple

import torch

from discriminator import Discriminator
from generator import Generator, sample_latents
from inside_cnn.core.device import Stream
from inside_cnn.core.errors import UserError
from inside_cnn.data.dataset import displayed_classes, displayed_note
from inside_cnn.engine import cli
from inside_cnn.engine.plots import image_grid
from inside_cnn.engine.weights import check_classes, digest, find_weights, load_model
from inside_cnn.layers.accelerate import accelerate
from inside_cnn.metrics import sampling
from inside_cnn.metrics.classifier import evaluate
from inside_cnn.metrics.scores import Judge, TrainingScores
from inside_cnn.training import augmentation, panels
from inside_cnn.training.ema import EMA
from inside_cnn.training.gan_losses import discriminator_loss, generator_loss, real_images_loss
from inside_cnn.training.optimizers import make_optimizer
from inside_cnn.training.run import TrainingRun
from inside_cnn.training.schedules import linear, set_learning_rates

RECIPES = {
    # The homework's recipe: alternating steps of both networks, constant learning rates.
    "classic": {
        "epochs": 200,
        "batch_size": 128,
        "width": 196,
        "augmentation": "crop",
        "d_optimizer": "adam",
        "g_optimizer": "adam",
        "lr": 1e-4,
        "muon_lr": 0.0,
        "momentum": 0.0,
        "schedule": "constant",
        "adversarial_loss": "wasserstein",
        "gp_weight": 10.0,
        "gp_batch_shrink": 1,
        "d_fake_class_weight": 1.0,
        "g_class_weight": 1.0,
        "gen_train": 1,
        "ema_decay": 0.999,  # affects only the exported generator and its samples
    }
}
# How these values were chosen: benchmarks/recipes.md.
RECIPES["muon"] = RECIPES["classic"] | {
    "epochs": 100,
    "augmentation": "shift",
    "d_optimizer": "muon",
    "g_optimizer": "muon",
    "lr": 5e-4,
    "muon_lr": 0.02,
    "momentum": 0.5,
    "schedule": "linear",
    "d_fake_class_weight": 0.0,
}
# Better at width 64 in up to 16 epochs; not yet trained at full width.
RECIPES["relativistic"] = RECIPES["muon"] | {
    "batch_size": 64,
    "adversarial_loss": "relativistic",
    "gp_weight": 0.1,
    "gp_batch_shrink": 2,
    "g_class_weight": 0.3,
    "gen_train": 2,
}
# For minutes on a CPU, for example with --width 64: smaller batches, more steps.
RECIPES["brief"] = RECIPES["relativistic"] | {"batch_size": 32, "epochs": 3}
NO_FAKES = ("none", "penalty")  # values of --critic
GENERATOR_ONLY = ("g_optimizer", "g_class_weight", "gen_train", "ema_decay")  # flags
PENALTY = ("adversarial_loss", "gp_weight", "gp_batch_shrink")  # flags
MIN_NOISE = 16  # entries of a latent in addition to the one-hot class


def make_parser():
    at_least = cli.at_least
    weight, optimizer = {"type": at_least(0, float)}, {"choices": ("adam", "muon")}
    share = {"type": at_least(0, float, high=1)}
    parser = cli.Parser(__doc__)
    flags = {
        "epochs": {"type": at_least(1), "help": "passes over the training images"},
        "batch_size": {"type": at_least(2), "help": "real images per step"},
        "width": {"type": cli.size, "help": "channels of both networks"},
        "augmentation": {
            "choices": ("crop", "flip", "shift"),
            "help": "crop: resized crop, flip, color jitter of real images; flip: flip of real "
            "images; shift: shift by up to 4 pixels and flip of real and fake images",
        },
        "d_optimizer": optimizer | {"help": "muon: Muon for kernels, AdamW for the rest"},
        "g_optimizer": optimizer | {"help": "the same for the generator"},
        "lr": weight | {"help": "learning rate of Adam and AdamW"},
        "muon_lr": weight | {"help": "learning rate of Muon"},
        "momentum": share | {"help": "of Muon"},
        "schedule": {
            "choices": ("constant", "linear"),
            "help": "of the learning rates; linear: decay to 0 at the end of --epochs",
        },
        "adversarial_loss": {
            "choices": ("wasserstein", "relativistic"),
            "help": "wasserstein: WGAN-GP; relativistic: R3GAN, with a --gp_weight of about 0.1",
        },
        "gp_weight": weight | {"help": "lambda of the gradient penalty"},
        "gp_batch_shrink": {"type": at_least(1), "help": "penalty on 1/N of the batch"},
        "d_fake_class_weight": weight | {"help": "weight of the class loss of fake images"},
        "g_class_weight": weight | {"help": "weight of the generator's class loss"},
        "gen_train": {"type": at_least(1), "help": "discriminator steps per generator step"},
        "ema_decay": share | {"help": "of the generator's moving average; 0: no average"},
    }
    cli.add_recipe_arguments(parser, RECIPES, "muon", flags)
    cli.add_data_arguments(parser, training=True)
    cli.add_device_arguments(parser)
    cli.add_run_arguments(parser, "output/gan")
    latent_help = f"length of a latent: at least the number of classes + {MIN_NOISE}"
    parser.add_argument("--latent_dim", type=cli.size, default=100, help=latent_help)
    group = parser.add_argument_group("controls")
    group.add_argument(
        "--critic",
        choices=("full", "trained", "frozen", "penalty", "none"),
        default="full",
        help="loss of the discriminator beside the class loss of real images. full: the GAN; "
        "trained: critic loss and penalty with --fixed_generator, which does not learn; "
        "frozen: the same with an untrained generator; penalty: only the gradient penalty, "
        "between pairs of real images; none: class loss only, a classifier",
    )
    group.add_argument(
        "--fixed_generator", metavar="PATH", help="weights of a generator, for --critic trained"
    )
    group = parser.add_argument_group("scores during training, which a resumed run may change")
    group.add_argument(
        "--evaluate_every",
        type=at_least(0),
        default=0,
        metavar="N",
        help="score 2,000 samples after every N epochs and keep the best generator (0: never)",
    )
    cli.add_judge_argument(group)
    return parser


def parse_args(argv=None):
    parser = make_parser()
    conditions = (
        (("muon_lr", "momentum"), "--d_optimizer or --g_optimizer muon", uses_muon),
        (GENERATOR_ONLY, "--critic full", lambda args: args.critic == "full"),
        (["d_fake_class_weight"], "another --critic", lambda args: args.critic not in NO_FAKES),
        (PENALTY, "another --critic", lambda args: args.critic != "none"),
    )
    args = cli.fill_in_recipe(parser, parser.parse_args(argv), RECIPES, conditions)
    if args.judge is not None and not args.evaluate_every:
        parser.error("--judge does nothing here: it goes with --evaluate_every")
    if (args.critic == "trained") != (args.fixed_generator is not None):
        parser.error("--critic trained and --fixed_generator go together")
    if args.adversarial_loss == "relativistic" and args.gp_weight == 10:  # of WGAN-GP
        parser.error("--adversarial_loss relativistic needs a --gp_weight of about 0.1, not 10")
    if args.critic != "full":
        if args.evaluate_every:
            parser.error("--evaluate_every needs --critic full")
        args.ema_decay = 0.0  # the generator does not learn
    if uses_muon(args) and not args.muon_lr:
        parser.error("muon needs a --muon_lr above 0")
    return args


def uses_muon(args):
    return "muon" in (args.d_optimizer, args.g_optimizer if args.critic == "full" else None)


# ------------------------------------------------------------------------------ random inputs

# Random numbers are sampled for the whole batch, from streams named by purpose and step; each
# process takes its shard.


class FakeInputs(NamedTuple):
    """Inputs of the generator for one step.

    labels: int64 (b,); z: latents with these classes (b, latent_dim); shifts: augmentation of the
    fakes, or None; alpha: share of the real image in each point of the penalty, (pairs, 1, 1, 1),
    or None. Without fakes only alpha is used.
    """

    labels: torch.Tensor
    z: torch.Tensor
    shifts: augmentation.Shift | None = None
    alpha: torch.Tensor | None = None


def sample_real(run, args, train_set):
    """This process's shard of a step's real images, augmented, in [-1, 1], and their labels."""
    stream = run.stream(Stream.REAL, run.step)
    if args.augmentation == "crop":
        augment = augmentation.augment
        parameters = augmentation.sample_augmentation(args.batch_size, stream)
    else:
        max_shift = 4 if args.augmentation == "shift" else 0  # flip: no shift
        augment = augmentation.shift
        parameters = augmentation.sample_shift(args.batch_size, stream, max_shift)
    shard = run.shard(run.batch())
    return augment(train_set.images[shard], run.shard(parameters)), train_set.labels[shard]


def sample_fake_inputs(run, args, num_classes, stream, penalty=False):
    """This process's shard of the FakeInputs of a step; penalty: with alpha ~ U[0, 1]."""
    size, device = args.batch_size, run.device
    labels = torch.randint(num_classes, (size,), generator=stream, device=device)
    z = sample_latents(labels, args.latent_dim, stream, num_classes)
    alpha = torch.rand(size, 1, 1, 1, generator=stream, device=device) if penalty else None
    shifts = augmentation.sample_shift(size, stream) if args.augmentation == "shift" else None
    alpha = alpha[: penalty_pairs(args)] if penalty else None
    return run.shard(FakeInputs(labels, z, shifts, alpha))


# ------------------------------------------------------------------------------ updates


def penalty_pairs(args):
    """Pairs of images in the gradient penalty of a batch."""
    return math.ceil(args.batch_size / args.gp_batch_shrink)


class GAN:
    """Both networks with their optimizers, and one update of each.

    Updates take tensors and return the parts of their loss as tensors: they can be captured as CUDA
    graphs and must not read a value. step: number of the discriminator's step, from 1.
    """

    def __init__(self, run, args, num_classes=10, fixed_generator=None):
        """fixed_generator: a trained generator that does not learn; None: a new, untrained one."""
        self.run, self.args = run, args
        torch.manual_seed(args.seed)  # initial weights are sampled on the CPU: the same anywhere
        discriminator = Discriminator(args.width, num_classes)
        generator = fixed_generator or Generator(args.width, args.latent_dim)
        # With hand-derived second derivatives, see layers/double_backward.py.
        self.discriminator = accelerate(discriminator, run.device, run.compiled)
        self.generator = accelerate(generator, run.device, run.compiled)
        self.ema = EMA(self.generator, args.ema_decay)
        options = {"lr": args.lr, "muon_lr": args.muon_lr, "momentum": args.momentum}
        options |= {"betas": (0.0, 0.9), "bf16": run.precision == "bf16"}  # betas of WGAN-GP
        self.d_optimizer = make_optimizer(args.d_optimizer, self.discriminator, **options)
        self.g_optimizer = make_optimizer(args.g_optimizer, self.generator, **options)

    def fakes(self, inputs):
        """Augmented fake images: float32 (b, 3, 32, 32) in [-1, 1]."""
        fake = self.generator(inputs.z).float()
        return fake if inputs.shifts is None else augmentation.move(fake, inputs.shifts)

    def update_discriminator(self, step, real, inputs):
        """One step of the discriminator. real: (images, labels); inputs: FakeInputs."""
        args, options = self.args, {"alpha": inputs.alpha, "gp_weight": self.args.gp_weight}
        options["relativistic"] = args.adversarial_loss == "relativistic"
        with self.run.autocast():
            if args.critic in NO_FAKES:
                loss, parts = real_images_loss(self.discriminator, *real, **options)
            else:
                with torch.no_grad():
                    fake = self.fakes(inputs)
                options["fake_class_weight"] = args.d_fake_class_weight
                loss, parts = discriminator_loss(
                    self.discriminator, *real, fake, inputs.labels, **options
                )
        self.discriminator.zero_grad(set_to_none=True)
        loss.backward()
        self.run.take_step(self.d_optimizer, self.discriminator, loss, step)
        return parts

    def update_generator(self, step, real, inputs):
        """One step of the generator and of its average; the discriminator does not change."""
        args = self.args
        self.discriminator.requires_grad_(False)
        with self.run.autocast():
            fake = self.fakes(inputs)
            real_images = real[0] if args.adversarial_loss == "relativistic" else None
            loss, parts = generator_loss(
                self.discriminator, fake, inputs.labels, args.g_class_weight, real_images
            )
        self.generator.zero_grad(set_to_none=True)
        loss.backward()
        self.discriminator.requires_grad_(True)
        self.run.take_step(self.g_optimizer, self.generator, loss, step)
        updates = step.double().div(args.gen_train, rounding_mode="floor") - 1
        self.ema.update(self.generator, updates)
        return parts

    def parts(self):
        """The parts of a checkpoint."""
        names = ("discriminator", "generator", "d_optimizer", "g_optimizer", "ema")
        return {name: getattr(self, name) for name in names}

    def exports(self, metrics):
        """The networks to export, {file: (network, metadata)}; metrics: of the discriminator."""
        metadata = metrics | {"critic": self.args.critic}
        if self.args.critic == "trained":
            metadata["fixed_generator_sha256"] = digest(self.generator)
        files = {"discriminator.safetensors": (self.discriminator, metadata)}
        if self.args.critic == "full":
            files["generator.safetensors"] = self.ema.model, {"weights": self.ema.name}
            if self.args.ema_decay:
                files["generator_raw.safetensors"] = self.generator, {"weights": "raw"}
        return files


# ------------------------------------------------------------------------------ the run


def load_fixed_generator(args, dataset):
    """The generator of --critic trained, in eval mode; None for other values of --critic.

    Raises UserError if its classes or --latent_dim differ.
    """
    if args.critic != "trained":
        return None
    path = find_weights(args.fixed_generator, "generator.safetensors")
    generator, metadata = load_model(path, kind="generator")
    check_classes(path, metadata, dataset)
    if args.hold_out and (held_out := metadata.get("hold_out", 0)) != args.hold_out:
        raise UserError(f"{path} was trained with --hold_out {held_out}, not {args.hold_out}")
    if generator.latent_dim != args.latent_dim:
        raise UserError(f"--latent_dim {args.latent_dim}: {path} takes {generator.latent_dim}")
    return generator


def make_scorer(run, args, reference):
    """The TrainingScores of --evaluate_every against the images of `reference`; on rank 0 only."""
    if not (run.ranks.main and args.evaluate_every):
        return None
    path = find_weights(args.judge, "discriminator.safetensors", "baseline")
    judge = Judge(path, run.device, run.precision)
    return TrainingScores(judge, reference, args.seed, args.hold_out)


def score(run, scorer, ema):
    """The scores of the moving average; exports it if it has the best distance so far."""
    scores, judge = run.ranks.from_main(lambda: (scorer(ema.model), scorer.judge.digest))
    # The distances of different judges do not compare.
    name, negative_distance = f"frechet_distance by {judge}", -scores["frechet_distance"]
    metadata = {"weights": ema.name} | scores
    run.keep_best("generator_best.safetensors", name, negative_distance, ema.model, metadata)
    return scores


def save_samples(run, ema, dataset):
    """Write ten samples of each displayed class by the moving average, of the same latents."""
    count = len(dataset.class_names)
    title = f"{dataset.name}, epoch {run.step / run.steps_per_epoch:.4g}, {ema.name} generator"
    names = [dataset.class_names[k] for k in displayed_classes(count)]
    labels = torch.tensor(displayed_classes(count), device=run.device).repeat(10)
    latents = sample_latents(labels, ema.model.latent_dim, run.stream(Stream.PREVIEW), count)
    if run.ranks.main:
        images = sampling.generate(ema.model, latents, precision=run.precision)
        title += displayed_note(count)
        run.save_image(f"samples/{run.epoch:03d}.png", lambda: image_grid(images, names, title))


def check_sizes(args, train_set, world):
    """Raises UserError for latents that are too short, or pairs that processes cannot share."""
    if args.critic == "penalty" and world > 1:  # a pair would have images of two processes
        raise UserError("--critic penalty needs a single process")
    if args.critic != "none" and (pairs := penalty_pairs(args)) % world:
        raise UserError(f"{world} processes cannot share the {pairs} pairs of --gp_batch_shrink")
    count = len(train_set.class_names)
    if args.latent_dim < (least := count + MIN_NOISE):
        raise UserError(f"--latent_dim {args.latent_dim}: with {count} classes at least {least}")


def train(args):
    """Run or resume the training that the arguments describe; returns the final metrics.

    Raises UserError, or Stopped if the run ends early.
    """
    with TrainingRun(args, "train_gan.py", panels.GAN) as run:
        train_set, test_set = run.load_data(drop_last=True)
        run.ranks.together(lambda: check_sizes(args, train_set, run.ranks.world))
        reference = test_set if args.hold_out else train_set
        scorer = run.ranks.together(lambda: make_scorer(run, args, reference))
        fixed_generator = run.ranks.together(lambda: load_fixed_generator(args, train_set))
        num_classes, with_generator = len(train_set.class_names), args.critic == "full"
        gan, metrics = GAN(run, args, num_classes, fixed_generator), {}
        update_d, update_g = map(run.captured, (gan.update_discriminator, gan.update_generator))
        if summary := run.start(**gan.parts()):
            return summary
        if run.step == 0 and with_generator:
            save_samples(run, gan.ema, train_set)

        while run.step < run.total_steps:
            if args.schedule == "linear":
                for optimizer in (gan.d_optimizer, gan.g_optimizer):
                    set_learning_rates(optimizer, linear(run.step, run.scheduled_steps))

            # (1) Sample real images, and the inputs of the generator.
            step = torch.full((), run.step + 1, device=run.device)
            real = sample_real(run, args, train_set)
            stream, penalty = run.stream(Stream.FAKE_FOR_D, run.step), args.critic != "none"
            inputs = sample_fake_inputs(run, args, num_classes, stream, penalty)

            # (2) Discriminator: raise the score of real images over that of fakes, predict the
            # classes (with d_fake_class_weight of fakes too), limit the gradient of the score.
            losses = update_d(step, real, inputs)

            # (3) Generator, at every gen_train-th step, with new inputs: raise the score of the
            # fakes, and have the class head predict their labels.
            if with_generator and (run.step + 1) % args.gen_train == 0:
                stream = run.stream(Stream.FAKE_FOR_G, run.step + 1)
                inputs = sample_fake_inputs(run, args, num_classes, stream)
                losses = losses | update_g(step, real, inputs)

            # (4) Log and save.
            record = run.advance(losses)
            if run.epoch_ends:
                metrics = evaluate(gan.discriminator, test_set, run.precision, run.ranks)
                record |= {name: metrics[name] for name in ("test_loss", "test_accuracy")}
                if args.evaluate_every and run.epoch % args.evaluate_every == 0:
                    record |= score(run, scorer, gan.ema)
                if with_generator:
                    save_samples(run, gan.ema, train_set)
            run.log(record)
            run.save_if_due(gan.exports, metrics)

        metrics = metrics or evaluate(gan.discriminator, test_set, run.precision, run.ranks)
        summary = run.finish(gan.exports(metrics), run.last_record() | metrics)
        print(f"{run.evaluated_on} accuracy of the discriminator {metrics['test_accuracy']:.2f} %")
        if with_generator:
            print(f"samples: {run.folder.path / 'samples'}")
        return summary


def main(argv=None):
    return cli.exit_code_of(train, parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
