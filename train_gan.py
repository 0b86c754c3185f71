"""Train the discriminator against the generator: ACGAN + WGAN-GP, one update of each in turn.

    python train_gan.py --data_dir data

Leaves in output/gan: config.json, metrics.jsonl, curves.png, samples/000.png (before training),
001.png ... (after each epoch), summary.json, checkpoints/, discriminator.safetensors,
generator.safetensors (the moving average, unless --ema_decay 0), generator_raw.safetensors and,
with --evaluate_every, generator_best.safetensors, of the smallest Frechet distance so far.
The same command again goes on where it stopped.

--critic trains the discriminator alone, with a part of its loss left out or against a generator
that does not learn: the control networks that show what the generator changes in a discriminator.
"""

from functools import partial

import torch
import torch.nn.functional as F

from data_tools import DataError, shown_classes, to_uint8, words_of_shown
from discriminator import Discriminator
from engine import cli
from engine.device import DeviceError
from engine.output_folder import RunError
from engine.plots import image_grid
from engine.weights import (
    CheckpointError,
    check_classes,
    digest,
    find_export,
    find_weights,
    load_model,
)
from generator import Generator, sample_latents
from layers.double_backward import input_gradient
from metrics.classifier import evaluate
from metrics.scores import Judge, ScoreError, TrainingScores
from training import panels
from training.augmentation import augment, move, sample_augmentation, sample_shift, shift
from training.distributed import RanksError
from training.ema import EMA
from training.optimizers import make_optimizer
from training.run import TrainingRun
from training.schedules import linear, set_learning_rates

RECIPES = {
    # The assignment's recipe: one step of the one, one step of the other, constant rates.
    "classic": {
        "epochs": 200,
        "batch_size": 128,
        "width": 196,
        "augmentation": "crop",
        "d_optimizer": "adam",
        "g_optimizer": "adam",
        "lr": 1e-4,
        "kernel_lr": 0.0,
        "momentum": 0.0,
        "schedule": "constant",
        "gp_weight": 10.0,
        "gp_every": 1,
        "gp_batch_shrink": 1,
        "d_fake_class_weight": 1.0,
        "g_class_weight": 1.0,
        "gen_train": 1,
        "ema_decay": 0.999,  # looks on only: no update depends on the average
    },
    # How it was chosen: benchmarks/recipes.md.
    "muon": {
        "epochs": 100,
        "batch_size": 128,
        "width": 196,
        "augmentation": "shift",
        "d_optimizer": "muon",
        "g_optimizer": "muon",
        "lr": 5e-4,
        "kernel_lr": 0.02,
        "momentum": 0.5,
        "schedule": "linear",
        "gp_weight": 10.0,
        "gp_every": 1,
        "gp_batch_shrink": 1,
        "d_fake_class_weight": 0.0,
        "g_class_weight": 1.0,
        "gen_train": 1,
        "ema_decay": 0.999,
    },
}
# For minutes on a CPU, where a --width of 64 is enough.
RECIPES["brief"] = dict(RECIPES["muon"], epochs=3, batch_size=32, gen_train=2, gp_batch_shrink=2)
USER_ERRORS = (DeviceError, DataError, CheckpointError, RunError, RanksError, ScoreError)
WITHOUT_FAKES = ("none", "penalty")  # values of --critic
GENERATOR_ONLY = ("g_optimizer", "g_class_weight", "gen_train", "ema_decay")  # flags
PENALTY_ONLY = ("gp_weight", "gp_every", "gp_batch_shrink")
LEAST_NOISE = 16  # entries of a latent beside the code of the class
REAL, FAKE_FOR_D, FAKE_FOR_G, PREVIEW = range(4)  # names of the random streams


def parse_args(argv=None):
    at_least = cli.at_least
    parser = cli.Parser(__doc__.split("\n\n")[0])
    flags = {
        "epochs": {"type": at_least(1), "help": "passes over the training images"},
        "batch_size": {"type": at_least(2), "help": "real images per step"},
        "width": {"type": at_least(1), "help": "channels of both networks"},
        "augmentation": {
            "choices": ("crop", "flip", "shift"),
            "help": "crop: resized crop, flip, colour jitter of the real images; flip: of the real "
            "images; shift: by up to 4 pixels, and flip, of real images and fakes alike",
        },
        "d_optimizer": {
            "choices": ("adam", "muon"),
            "help": "the discriminator's; muon is for convolution kernels, with AdamW for the rest",
        },
        "g_optimizer": {"choices": ("adam", "muon"), "help": "the generator's"},
        "lr": {"type": at_least(0, float), "help": "learning rate of Adam and AdamW"},
        "kernel_lr": {"type": at_least(0, float), "help": "learning rate of Muon"},
        "momentum": {"type": at_least(0, float, high=1), "help": "of Muon"},
        "schedule": {
            "choices": ("constant", "linear"),
            "help": "of the learning rates; linear: down to 0 at the end of --epochs",
        },
        "gp_weight": {"type": at_least(0, float), "help": "lambda of the gradient penalty"},
        "gp_every": {
            "type": at_least(1, high=1000),
            "help": "discriminator steps from one penalty to the next, which weighs as many times",
        },
        "gp_batch_shrink": {"type": at_least(1), "help": "the penalty is of 1 pair in so many"},
        "d_fake_class_weight": {"type": at_least(0, float), "help": "of the class loss on fakes"},
        "g_class_weight": {"type": at_least(0, float), "help": "of the generator's class loss"},
        "gen_train": {"type": at_least(1), "help": "discriminator steps per generator step"},
        "ema_decay": {
            "type": at_least(0, float, high=1),
            "help": "of the generator's moving average, per generator step; 0 keeps none",
        },
    }
    cli.add_recipe_arguments(parser, RECIPES, "muon", flags)
    cli.add_data_arguments(parser, training=True)
    cli.add_hold_out_argument(parser)
    cli.add_device_arguments(parser)
    cli.add_run_arguments(parser, "output/gan")
    group = parser.add_argument_group("generator")
    group.add_argument(
        "--latent_dim",
        type=at_least(1),
        default=100,
        help="length of a latent, the code of the class in it: at least the number of classes + "
        f"{LEAST_NOISE}",
    )
    group = parser.add_argument_group("controls")
    group.add_argument(
        "--critic",
        choices=("full", "trained", "frozen", "penalty", "none"),
        default="full",
        help="what the discriminator learns beside the classes of real images. full: the GAN; "
        "trained: the critic loss and the penalty against --fixed_generator, which does not learn; "
        "frozen: the same against an untrained generator; penalty: the gradient penalty alone, "
        "between pairs of real images; none: nothing",
    )
    group.add_argument(
        "--fixed_generator",
        metavar="PATH",
        help="exported weights of a generator, or a folder, for --critic trained",
    )
    group = parser.add_argument_group("scores during training")
    group.add_argument(
        "--evaluate_every",
        type=at_least(0),
        default=0,
        metavar="N",
        help="score 2,000 samples after every N epochs and keep the best generator (0: never)",
    )
    group.add_argument(
        "--judge",
        help="exported weights of a classifier, or a folder (default: output/baseline, without one "
        "the published results/baseline)",
    )
    args = cli.fill_in_recipe(
        parser,
        parser.parse_args(argv),
        RECIPES,
        conditions=[
            (("kernel_lr", "momentum"), "--d_optimizer or --g_optimizer muon", takes_muon),
            (GENERATOR_ONLY, "--critic full", lambda args: args.critic == "full"),
            (["d_fake_class_weight"], "fakes", lambda args: args.critic not in WITHOUT_FAKES),
            (PENALTY_ONLY, "a penalty", lambda args: args.critic != "none"),
        ],
    )
    if args.judge is not None and not args.evaluate_every:
        parser.error("--judge does nothing here: it goes with --evaluate_every")
    if (args.critic == "trained") != (args.fixed_generator is not None):
        parser.error("--critic trained and --fixed_generator go together")
    if args.critic != "full":
        if args.evaluate_every:
            parser.error("--evaluate_every scores a generator that learns: it needs --critic full")
        args.ema_decay = 0.0  # no generator learns
    if takes_muon(args) and not args.kernel_lr:
        parser.error("muon needs a --kernel_lr above 0: the kernels would stay put")
    return args


def takes_muon(args):
    g_optimizer = args.g_optimizer if args.critic == "full" else None
    return "muon" in (args.d_optimizer, g_optimizer)


# ------------------------------------------------------------------------------ losses


def sample_alpha(batch_size, device, generator=None):
    """The weight of each real image in x_hat, ~ U[0, 1]: (b, 1, 1, 1)."""
    return torch.rand(batch_size, 1, 1, 1, generator=generator, device=device)


def input_gradient_norms(discriminator, real, fake, alpha):
    """||d score / d x_hat||_2 at x_hat = alpha real + (1 - alpha) fake, for each pair.

    real, fake: (b, 3, 32, 32) in [-1, 1]; alpha: (b, 1, 1, 1) -> float32 (b,), differentiable in
    the discriminator's parameters; no gradient reaches `real` or `fake`.
    Raises ValueError where their shapes differ.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real {tuple(real.shape)} and fake {tuple(fake.shape)} differ in shape")
    x_hat = torch.lerp(fake.detach(), real.detach(), alpha.to(real.dtype)).requires_grad_()
    scores, _ = discriminator(x_hat)
    # No image's score depends on another image, so the gradient of the sum holds each one's own.
    gradient = input_gradient(scores.sum(), x_hat, create_graph=True).flatten(1)
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)).norm(dim=1)


def gradient_penalty(discriminator, real, fake, generator=None):
    """Mean of (||d score / d x_hat||_2 - 1)^2 over the batch, unweighted, in float32.

    x_hat mixes each real image with a fake one by its own weight ~ U[0, 1].
    Differentiable in the discriminator's parameters; no gradient reaches `real` or `fake`.

    real, fake: (b, 3, 32, 32) in [-1, 1].
    Raises ValueError where their shapes differ.
    Source: Gulrajani et al. 2017, Improved Training of Wasserstein GANs, section 4.
    """
    alpha = sample_alpha(len(real), real.device, generator)
    return penalty_of(input_gradient_norms(discriminator, real, fake, alpha))


def penalty_of(norms):
    return (norms - 1).square().mean()


def penalty_terms(discriminator, images, others, alpha):
    """The penalty between the first pairs, one for each weight in alpha, and what is logged of it.

    With alpha None 0 and {}.
    """
    if alpha is None:
        return 0.0, {}
    n = len(alpha)
    norms = input_gradient_norms(discriminator, images[:n], others[:n], alpha)
    penalty = penalty_of(norms)
    return penalty, {"gradient_penalty": penalty, "gradient_norm": norms.mean()}


def discriminator_loss(
    discriminator, real, labels, fake, fake_labels, *, alpha, gp_weight=10.0, fake_class_weight=1.0
):
    """Loss of the discriminator, a scalar, and its parts, a dict of detached scalars.

    L = mean D(fake) - mean D(real) + CE(real) + fake_class_weight CE(fake) + gp_weight penalty: the
    critic's estimate of the Wasserstein distance, the class head's cross-entropy, the gradient
    penalty.
    real, fake: (b, 3, 32, 32) in [-1, 1]; labels, fake_labels: int64 (b,); alpha: (n, 1, 1, 1), the
    weight in x_hat of each of the first n real images, or None, for a loss without the penalty.
    Source: Gulrajani et al. 2017, equation 3; Odena et al. 2017, equation 2.
    """
    # Real and fake images share one pass: nothing in the discriminator looks across images.
    scores, class_logits = discriminator(torch.cat([real, fake]))
    real_scores, fake_scores = scores.float().split([len(real), len(fake)])
    real_logits, fake_logits = class_logits.float().split([len(real), len(fake)])
    critic_gap = real_scores.mean() - fake_scores.mean()
    class_loss_real = F.cross_entropy(real_logits, labels)
    class_loss_fake = F.cross_entropy(fake_logits, fake_labels)
    class_loss = class_loss_real + fake_class_weight * class_loss_fake
    penalty, of_gradient = penalty_terms(discriminator, real, fake, alpha)
    loss = -critic_gap + class_loss + gp_weight * penalty
    parts = {
        "discriminator_loss": loss,
        "critic_gap": critic_gap,
        **of_gradient,
        "class_loss_real": class_loss_real,
        "class_loss_fake": class_loss_fake,
        "class_accuracy_real": 100 * (real_logits.argmax(1) == labels).float().mean(),
        "class_accuracy_fake": 100 * (fake_logits.argmax(1) == fake_labels).float().mean(),
    }
    return loss, {name: part.detach() for name, part in parts.items()}


def real_images_loss(discriminator, real, labels, *, alpha=None, gp_weight=10.0):
    """Loss of a discriminator that sees no fakes, a scalar, and its parts, as discriminator_loss.

    L = CE(real) + gp_weight penalty; x_hat mixes real image i with real image i + 1 of the batch.
    real: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,); alpha: (n, 1, 1, 1), or None for a loss
    without the penalty.
    """
    class_logits = discriminator(real)[1].float()
    class_loss = F.cross_entropy(class_logits, labels)
    penalty, of_gradient = penalty_terms(discriminator, real, real.roll(-1, 0), alpha)
    loss = class_loss + gp_weight * penalty
    parts = {
        "discriminator_loss": loss,
        **of_gradient,
        "class_loss_real": class_loss,
        "class_accuracy_real": 100 * (class_logits.argmax(1) == labels).float().mean(),
    }
    return loss, {name: part.detach() for name, part in parts.items()}


def generator_loss(discriminator, fake, labels, class_weight=1.0):
    """Loss of the generator, a scalar, and its parts, a dict of detached scalars.

    L = -mean D(fake) + class_weight CE(fake): a high score, and the class that was asked for.
    fake: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,). Source: as discriminator_loss.
    """
    scores, class_logits = discriminator(fake)
    class_loss = F.cross_entropy(class_logits.float(), labels)
    loss = -scores.float().mean() + class_weight * class_loss
    parts = {"generator_loss": loss, "generator_class_loss": class_loss}
    return loss, {name: part.detach() for name, part in parts.items()}


# ------------------------------------------------------------------------------ updates

# step: the discriminator's, from 1, a tensor; real: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,);
# z: (b, latent_dim); alpha: (n, 1, 1, 1); shifts: a Shift of the fakes, or None; all of them this
# process's shards. Both return the parts of their loss, left on the device.


def draw(generator, z, shifts):
    """The fakes as the discriminator sees them: float32 (b, 3, 32, 32) in [-1, 1]."""
    fake = generator(z).float()
    return fake if shifts is None else move(fake, shifts)


def update_discriminator(
    run, args, discriminator, generator, d_optimizer,
    step, real, labels, z, fake_labels, alpha, shifts=None,
):  # fmt: skip
    """One step of the discriminator, with a penalty if with alpha; the generator only draws."""
    gp_weight = args.gp_weight * args.gp_every
    with run.autocast():
        if args.critic in WITHOUT_FAKES:
            loss, metrics = real_images_loss(
                discriminator, real, labels, alpha=alpha, gp_weight=gp_weight
            )
        else:
            with torch.no_grad():
                fake = draw(generator, z, shifts)
            loss, metrics = discriminator_loss(
                discriminator,
                real,
                labels,
                fake,
                fake_labels,
                alpha=alpha,
                gp_weight=gp_weight,
                fake_class_weight=args.d_fake_class_weight,
            )
    discriminator.zero_grad(set_to_none=True)
    loss.backward()
    run.take_step(d_optimizer, discriminator, loss, step)
    return metrics


def update_generator(
    run, args, discriminator, generator, ema, g_optimizer,
    step, z, labels, shifts=None,
):  # fmt: skip
    """One step of the generator and of its average; the discriminator is frozen."""
    discriminator.requires_grad_(False)
    with run.autocast():
        fake = draw(generator, z, shifts)
        loss, metrics = generator_loss(discriminator, fake, labels, args.g_class_weight)
    generator.zero_grad(set_to_none=True)
    loss.backward()
    discriminator.requires_grad_(True)
    run.take_step(g_optimizer, generator, loss, step)
    ema.update(generator, step.double().div(args.gen_train, rounding_mode="floor") - 1)
    return metrics


# ------------------------------------------------------------------------------ what a step draws

# Everything random is drawn for the whole batch, from streams named by purpose and step; each
# process takes its shard of all.


def real_batch(run, args, train_set):
    """This step's real images, augmented, (b, 3, 32, 32) in [-1, 1], and their labels (b,)."""
    stream = run.stream(REAL, run.step)
    if args.augmentation == "crop":
        augmented, drawn = augment, sample_augmentation(args.batch_size, stream)
    else:
        reach = 4 if args.augmentation == "shift" else 0  # flip: shifts by nothing
        augmented, drawn = shift, sample_shift(args.batch_size, stream, reach)
    shard = run.shard(run.batch())
    return augmented(train_set.images[shard], run.shard(drawn)), train_set.labels[shard]


def fake_inputs(run, args, num_classes, stream, for_d=False):
    """What fakes are drawn from: z (b, latent_dim), labels (b,), alpha if for D, shifts or None."""
    labels, z = sample_inputs(args.batch_size, args.latent_dim, stream, num_classes)
    shrink, world = args.gp_batch_shrink, run.ranks.world
    pairs = -(-args.batch_size // (shrink * world)) * world  # as many for each process, at least 1
    alpha = sample_alpha(args.batch_size, run.device, stream)[:pairs] if for_d else None
    shifts = sample_shift(args.batch_size, stream) if args.augmentation == "shift" else None
    return [None if drawn is None else run.shard(drawn) for drawn in (z, labels, alpha, shifts)]


def sample_inputs(batch_size, latent_dim, stream, num_classes=10):
    """Labels drawn uniformly (b,), and latents that ask for them (b, latent_dim)."""
    labels = torch.randint(num_classes, (batch_size,), generator=stream, device=stream.device)
    return labels, sample_latents(labels, latent_dim, stream, num_classes)


# ------------------------------------------------------------------------------ the run


def check_latent_dim(latent_dim, num_classes):
    """Raises RunError where the code of the class leaves too few entries of a latent for noise."""
    least = num_classes + LEAST_NOISE
    if latent_dim < least:
        raise RunError(f"--latent_dim {latent_dim}: with {num_classes} classes at least {least}")


def preview(run, generator, num_classes=10):
    """Ten images of each class shown, one column each, from latents fixed by the seed.

    Returns uint8 (10 * columns, 3, 32, 32), row by row.
    """
    labels = torch.tensor(shown_classes(num_classes), device=run.device).repeat(10)
    stream = run.stream(PREVIEW)
    training = generator.training
    generator.eval()
    with torch.no_grad(), run.autocast():
        images = generator(sample_latents(labels, generator.latent_dim, stream, num_classes))
    generator.train(training)
    return to_uint8(images)


def save_samples(run, ema, dataset):
    """Draw the preview of the epoch, by the generator's average."""
    count = len(dataset.class_names)
    title = f"{dataset.name}, epoch {run.step / run.steps_per_epoch:.4g}, {ema.name} generator"
    title += words_of_shown(count)
    names = [dataset.class_names[k] for k in shown_classes(count)]
    run.write_once(
        f"samples/{run.epoch:03d}.png",
        lambda: image_grid(preview(run, ema.model, count), names, title),
    )


def make_generator(args, dataset):
    """The generator that the discriminator is trained against: it learns only with --critic full.

    With --critic frozen its BatchNorm takes the statistics of each batch, as in the first step of a
    GAN; that of --critic trained takes its running averages, as where samples are generated.
    Raises CheckpointError or RunError if the fixed generator does not fit the data or --latent_dim.
    """
    if args.critic != "trained":
        return Generator(args.width, args.latent_dim)
    path = find_export(args.fixed_generator, "generator.safetensors")
    generator, metadata = load_model(path, kind="generator")
    check_classes(path, metadata, dataset)
    if generator.latent_dim != args.latent_dim:
        raise RunError(f"--latent_dim {args.latent_dim}: {path} takes {generator.latent_dim}")
    return generator


def make_scores(run, args, reference):
    """What scores the generator during training; only rank 0 needs it.

    reference: the images that samples are compared with. Raises ScoreError for a judge that was
    trained with another --hold_out.
    """
    path = find_weights(args.judge, "baseline", "discriminator.safetensors")
    judge = Judge(path, run.device, run.precision)
    if args.hold_out and judge.metadata.get("hold_out") != args.hold_out:
        raise ScoreError(
            f"the judge {path} was trained with --hold_out {judge.metadata.get('hold_out', 0)}, "
            f"not {args.hold_out}; train one"
        )
    return TrainingScores(judge, reference, args.seed)


def score(run, training_scores, ema):
    """The average's scores; its weights are kept if no distance by this judge was smaller."""
    scores, judge = run.from_main(
        lambda: (training_scores(ema.model), training_scores.judge.digest)
    )
    what, best = f"frechet_distance by {judge}", {"weights": ema.name} | scores
    closeness = -scores["frechet_distance"]
    run.keep_best("generator_best.safetensors", what, closeness, ema.model, best)
    return scores


def train(args):
    """Run or resume the training that the arguments describe; returns the final metrics.

    Raises one of USER_ERRORS for what the user can mend, Stopped where the run ends early.
    """
    with TrainingRun(args, "train_gan.py", panels.GAN) as run:
        train_set, test_set = run.load_data(drop_last=True)
        num_classes = len(train_set.class_names)
        check_latent_dim(args.latent_dim, num_classes)
        if differ := train_set.uneven_classes():
            print(f"{differ}; the generator is asked for all of them alike")
        training_scores = None
        if args.evaluate_every:
            reference = test_set if args.hold_out else train_set
            training_scores = run.on_main(lambda: make_scores(run, args, reference))
        torch.manual_seed(args.seed)  # for the initial weights; drawn on the CPU, the same anywhere
        discriminator = run.accelerated(Discriminator(args.width, num_classes))
        generator = run.accelerated(run.ranks.together(lambda: make_generator(args, train_set)))
        ema = EMA(generator, args.ema_decay)
        d_optimizer, g_optimizer = (
            make_optimizer(
                kind,
                network,
                lr=args.lr,
                kernel_lr=args.kernel_lr,
                betas=(0.0, 0.9),
                momentum=args.momentum,
                normalize=True,
                dtype=torch.bfloat16 if run.precision == "bf16" else torch.float32,
            )
            for kind, network in ((args.d_optimizer, discriminator), (args.g_optimizer, generator))
        )
        networks = discriminator, generator
        update_d, update_d_alone = (
            run.captured(partial(update_discriminator, run, args, *networks, d_optimizer))
            for _ in range(2)  # with the penalty and without: each is one recorded graph
        )
        update_g = run.captured(partial(update_generator, run, args, *networks, ema, g_optimizer))
        metrics = {}

        def exports():
            described = metrics | {"critic": args.critic}
            if args.critic == "trained":
                described["fixed_generator_sha256"] = digest(generator)
            if args.critic != "full":
                return {"discriminator.safetensors": (discriminator, described)}
            raw = {"generator_raw.safetensors": (generator, {"weights": "raw"})}
            return {
                "discriminator.safetensors": (discriminator, described),
                "generator.safetensors": (ema.model, {"weights": ema.name}),
            } | (raw if args.ema_decay else {})

        parts = {"d_optimizer": d_optimizer, "g_optimizer": g_optimizer, "ema": ema}
        if summary := run.start(discriminator=discriminator, generator=generator, **parts):
            return summary
        if run.step == 0 and args.critic == "full":
            save_samples(run, ema, train_set)
        while run.step < run.total_steps:
            if args.schedule == "linear":
                for optimizer in (d_optimizer, g_optimizer):
                    set_learning_rates(optimizer, linear(run.step, run.scheduled_steps))

            # (1) Discriminator: raise its score of real images over that of fakes, name the classes
            # (with d_fake_class_weight the fakes' too), keep the gradient's norm near 1 in between.
            step = torch.full((), run.step + 1, device=run.device)
            real, labels = real_batch(run, args, train_set)
            stream = run.stream(FAKE_FOR_D, run.step)
            z, fake_labels, alpha, shifts = fake_inputs(run, args, num_classes, stream, for_d=True)
            penalize = run.step % args.gp_every == 0 and args.critic != "none"
            update, alpha = (update_d, alpha) if penalize else (update_d_alone, None)
            step_metrics = update(step, real, labels, z, fake_labels, alpha, shifts)

            # (2) Generator, after every gen_train-th step, with fakes of its own: raise their
            # score, and have the class head name the class that was asked for.
            if (run.step + 1) % args.gen_train == 0 and args.critic == "full":
                stream = run.stream(FAKE_FOR_G, run.step + 1)
                z, labels, _, shifts = fake_inputs(run, args, num_classes, stream)
                step_metrics = step_metrics | update_g(step, z, labels, shifts)
            run.advance(step_metrics)

            if run.log_due:
                record = run.record()
                if run.epoch_ends:
                    metrics = evaluate(discriminator, test_set, run.precision, run)
                    record |= {name: metrics[name] for name in ("test_loss", "test_accuracy")}
                if run.epoch_ends and args.evaluate_every and run.epoch % args.evaluate_every == 0:
                    record |= score(run, training_scores, ema)
                run.log(record)
            if run.epoch_ends and args.critic == "full":
                save_samples(run, ema, train_set)
            run.save_if_due(exports)
            run.stop_if_asked()

        metrics = metrics or evaluate(discriminator, test_set, run.precision, run)
        summary = run.finish(exports, run.last_record() | metrics)
        accuracy = metrics["test_accuracy"]
        print(f"{run.evaluated_on} accuracy of the discriminator {accuracy:.2f} %")
        if args.critic == "full":
            print(f"samples: {run.folder.path / 'samples'}")
        return summary


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(train, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
