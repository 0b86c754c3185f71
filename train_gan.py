"""Train the discriminator against the generator: ACGAN + WGAN-GP, one update of each in turn.

    python train_gan.py --data_dir data

Leaves in output/gan: config.json, metrics.jsonl, curves.png, samples/000.png (before training),
001.png ... (after each epoch), summary.json, checkpoints/, discriminator.safetensors,
generator.safetensors (the moving average, unless --ema_decay 0), generator_raw.safetensors and,
with --evaluate_every, generator_best.safetensors, of the smallest Frechet distance so far.
The same command again goes on where it stopped.
"""

import copy
import math
import sys

import torch
import torch.nn.functional as F

from data_tools import DataError, epoch_order, load_dataset, to_uint8
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
from engine.plots import save_curves, save_image_grid
from engine.progress import Progress
from engine.weights import CheckpointError, export_model, find_weights
from generator import Generator, sample_latents
from layers.double_backward import compile_for, input_gradient
from metrics.classifier import evaluate
from metrics.scores import Judge, ScoreError, TrainingScores
from training import panels, stopping
from training.augmentation import (
    Augmentation,
    Shift,
    augment,
    move,
    sample_augmentation,
    sample_shift,
    shift,
)
from training.cuda_graph import Recorded
from training.distributed import Ranks, RanksDiffer
from training.ema import update_average
from training.optimizers import keep_rates_on, make_optimizer, scale_rates
from training.run_folder import RunError, RunFolder

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
        "d_fake_class_weight": 1.0,
        "g_class_weight": 1.0,
        "gen_train": 1,
        "ema_decay": 0.999,  # looks on only: no update depends on the average
    },
    # How it was chosen: benchmarks/recipes.md.
    "muon": {
        "epochs": 200,
        "batch_size": 64,
        "width": 196,
        "augmentation": "shift",
        "d_optimizer": "muon",
        "g_optimizer": "muon",
        "lr": 5e-4,
        "kernel_lr": 0.02,
        "momentum": 0.5,
        "schedule": "linear",
        "gp_weight": 10.0,
        "d_fake_class_weight": 0.0,
        "g_class_weight": 1.0,
        "gen_train": 1,
        "ema_decay": 0.999,
    },
}
USER_ERRORS = (*(DeviceError, DataError, CheckpointError, RunError, RanksDiffer, ScoreError),)
NUM_CLASSES = 10
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
        "d_fake_class_weight": {
            "type": at_least(0, float),
            "help": "of the fakes' class loss in the discriminator's loss",
        },
        "g_class_weight": {
            "type": at_least(0, float),
            "help": "of the class loss in the generator's loss",
        },
        "gen_train": {"type": at_least(1), "help": "discriminator steps per generator step"},
        "ema_decay": {
            "type": at_least(0, float, high=1),
            "help": "of the generator's moving average, per generator step; 0 keeps none",
        },
    }
    cli.add_recipe_arguments(parser, RECIPES, "muon", flags)
    cli.add_data_arguments(parser)
    cli.add_device_arguments(parser)
    cli.add_run_arguments(parser, "output/gan")
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
        *(parser, parser.parse_args(argv), RECIPES),
        [(("kernel_lr", "momentum"), "--d_optimizer or --g_optimizer muon", takes_muon)],
    )
    if args.judge is not None and not args.evaluate_every:
        parser.error("--judge does nothing here: it goes with --evaluate_every")
    if takes_muon(args) and not args.kernel_lr:
        parser.error("muon needs a --kernel_lr above 0: the kernels would stay put")
    return args


def takes_muon(args):
    return "muon" in (args.d_optimizer, args.g_optimizer)


# ------------------------------------------------------------------------------ losses


def input_gradient_norms(discriminator, real, fake, generator=None, mix=None):
    """||d score / d x_hat||_2 at a random point between each real image and a fake one.

    x_hat = a real + (1 - a) fake, with one a ~ U[0, 1] per image, drawn from `generator` or given
    as `mix`, (b, 1, 1, 1). real, fake: (b, 3, 32, 32) in [-1, 1] -> float32 (b,), differentiable in
    the discriminator's parameters; no gradient reaches `real` or `fake`.
    Raises ValueError where their shapes differ.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real {tuple(real.shape)} and fake {tuple(fake.shape)} differ in shape")
    if mix is None:
        mix = sample_mix(len(real), real.device, generator)
    x_hat = torch.lerp(fake.detach(), real.detach(), mix.to(real.dtype)).requires_grad_()
    scores, _ = discriminator(x_hat)
    # No image's score depends on another image, so the gradient of the sum holds each one's own.
    gradient = input_gradient(scores.sum(), x_hat, create_graph=True).flatten(1)
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)).norm(dim=1)


def sample_mix(batch_size, device, generator=None):
    """The weight of each real image in x_hat, ~ U[0, 1]: (b, 1, 1, 1)."""
    return torch.rand(batch_size, 1, 1, 1, generator=generator, device=device)


def gradient_penalty(discriminator, real, fake, generator=None):
    """Mean of (||d score / d x_hat||_2 - 1)^2 over the batch, unweighted, in float32.

    x_hat mixes each real image with a fake one by its own weight ~ U[0, 1].
    Differentiable in the discriminator's parameters; no gradient reaches `real` or `fake`.

    real, fake: (b, 3, 32, 32) in [-1, 1].
    Raises ValueError where their shapes differ.
    Source: Gulrajani et al. 2017, Improved Training of Wasserstein GANs, section 4.
    """
    return penalty_of(input_gradient_norms(discriminator, real, fake, generator))


def penalty_of(norms):
    return (norms - 1).square().mean()


def discriminator_loss(
    discriminator,
    real,
    real_labels,
    fake,
    fake_labels,
    gp_weight=10.0,
    generator=None,
    mix=None,
    fake_class_weight=1.0,
):
    """Loss of the discriminator, a scalar, and its parts, a dict of detached scalars.

    L = mean D(fake) - mean D(real) + CE(real) + fake_class_weight CE(fake) + gp_weight penalty: the
    critic's estimate of the Wasserstein distance, the class head's cross-entropy, the gradient
    penalty.
    real, fake: (b, 3, 32, 32) in [-1, 1]; labels: int64 (b,); generator, mix: as above.
    Source: Gulrajani et al. 2017, equation 3; Odena et al. 2017, equation 2.
    """
    # Real and fake images share one pass: nothing in the discriminator looks across images.
    scores, class_logits = discriminator(torch.cat([real, fake]))
    real_scores, fake_scores = scores.float().split([len(real), len(fake)])
    real_logits, fake_logits = class_logits.float().split([len(real), len(fake)])
    critic_gap = real_scores.mean() - fake_scores.mean()
    class_loss_real = F.cross_entropy(real_logits, real_labels)
    class_loss_fake = F.cross_entropy(fake_logits, fake_labels)
    norms = input_gradient_norms(discriminator, real, fake, generator, mix)
    penalty = penalty_of(norms)
    class_loss = class_loss_real + fake_class_weight * class_loss_fake
    loss = -critic_gap + class_loss + gp_weight * penalty
    parts = {
        "discriminator_loss": loss,
        "critic_gap": critic_gap,
        "gradient_penalty": penalty,
        "gradient_norm": norms.mean(),
        "class_loss_real": class_loss_real,
        "class_loss_fake": class_loss_fake,
        "class_accuracy_real": 100 * (real_logits.argmax(1) == real_labels).float().mean(),
        "class_accuracy_fake": 100 * (fake_logits.argmax(1) == fake_labels).float().mean(),
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


def sample_inputs(batch_size, latent_dim, stream):
    """What the generator is asked for: labels drawn uniformly (b,), latents (b, latent_dim)."""
    labels = torch.randint(NUM_CLASSES, (batch_size,), generator=stream, device=stream.device)
    return labels, sample_latents(labels, latent_dim, stream)


def discriminator_backward(
    discriminator,
    generator,
    real,
    real_labels,
    latents,
    fake_labels,
    mix,
    gp_weight,
    precision,
    fake_class_weight=1.0,
    shifts=None,
):
    """Gradients of the discriminator's loss, the generator only draws; returns the loss's parts.

    shifts: a Shift of the fakes, or None.
    """
    with autocast(real.device, precision):
        with torch.no_grad():
            fake = generator(latents).float()
            fake = fake if shifts is None else move(fake, shifts)
        loss, parts = discriminator_loss(
            *(discriminator, real, real_labels, fake, fake_labels, gp_weight),
            mix=mix,
            fake_class_weight=fake_class_weight,
        )
    discriminator.zero_grad(set_to_none=True)
    loss.backward()
    return parts


def generator_backward(
    discriminator, generator, latents, labels, precision, class_weight=1.0, shifts=None
):
    """Gradients of the generator's loss, the discriminator is frozen; returns the loss's parts.

    shifts: a Shift of the fakes, through which the discriminator sees them, or None.
    """
    discriminator.requires_grad_(False)
    with autocast(latents.device, precision):
        fake = generator(latents).float()
        fake = fake if shifts is None else move(fake, shifts)
        loss, parts = generator_loss(discriminator, fake, labels, class_weight)
    generator.zero_grad(set_to_none=True)
    loss.backward()
    discriminator.requires_grad_(True)
    return parts


def make_updates(
    args, precision, ranks, guard, discriminator, generator, average, d_optimizer, g_optimizer
):
    """The two updates of train() as functions of tensors alone, which a GPU can record.

    args: gp_weight, d_fake_class_weight, g_class_weight, gen_train and ema_decay of parse_args.
    number: of the discriminator's step, from 1, a tensor; shifts: the fields of a Shift, or none.
    Both return the parts of the loss. The first one's arguments: number, real images in [-1, 1] and
    their labels, latents and labels of the fakes, mix, shifts of the fakes.
    """

    def update_discriminator(number, real, labels, latents, fake_labels, mix, *shifts):
        parts = discriminator_backward(
            *(discriminator, generator, real, labels, latents, fake_labels, mix),
            *(args.gp_weight, precision, args.d_fake_class_weight),
            Shift(*shifts) if shifts else None,
        )
        loss = ranks.sum_gradients(discriminator, parts["discriminator_loss"], 1 / ranks.world)
        guard.step(d_optimizer, loss, number)
        return parts

    def update_generator(number, latents, labels, *shifts):
        parts = generator_backward(
            *(discriminator, generator, latents, labels, precision, args.g_class_weight),
            Shift(*shifts) if shifts else None,
        )
        loss = ranks.sum_gradients(generator, parts["generator_loss"], 1 / ranks.world)
        guard.step(g_optimizer, loss, number)
        if average:
            done = number.double().div(args.gen_train, rounding_mode="floor") - 1
            update_average(average, generator, args.ema_decay, done)
        return parts

    return update_discriminator, update_generator


# ------------------------------------------------------------------------------ the run


def preview(generator, seed, precision, device):
    """Ten images of each class, one column each, from latents fixed by the seed.

    Returns uint8 (100, 3, 32, 32), row by row.
    """
    stream = random_stream(device, seed, PREVIEW)
    labels = torch.arange(NUM_CLASSES, device=device).repeat(10)
    training = generator.training
    generator.eval()
    with torch.no_grad(), autocast(device, precision):
        images = generator(sample_latents(labels, generator.latent_dim, stream))
    generator.train(training)
    return to_uint8(images)


def train(args):
    """Run or resume the training that the arguments describe; returns the final figures.

    Raises one of USER_ERRORS for what the user can mend, runtime.Stopped where the run ends early.
    """
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    keep_freed_memory()
    ranks = Ranks(device)
    fast = pick_compile(args.compile, device, ranks.world)
    compile_for(device if fast else None)
    clock = stopping.Clock(args.save_every_minutes, args.max_minutes)
    train_set, test_set = ranks.main_first(lambda: load_dataset(args.dataset, args.data_dir))
    train_set = train_set.first(args.limit_train).to(device)
    test_set = test_set.first(args.limit_test).to(device)
    steps_per_epoch = len(train_set) // args.batch_size  # the last, smaller batch is dropped
    if steps_per_epoch == 0:
        raise DataError(f"--batch_size {args.batch_size} is larger than the set ({len(train_set)})")
    if args.batch_size % ranks.world or args.batch_size < 2 * ranks.world:
        raise DataError(
            f"--batch_size {args.batch_size} does not give each of the {ranks.world} processes the "
            "same number of images, at least 2"
        )
    total_steps = min(args.epochs * steps_per_epoch, args.max_steps or sys.maxsize)

    def watch_with_judge():
        path = find_weights(args.judge, "baseline", "discriminator.safetensors")
        judge = Judge(path, device, precision)
        return TrainingScores(judge, train_set, args.seed)

    watch = ranks.together(watch_with_judge) if args.evaluate_every else None
    judge = watch.judge.digest if watch else None

    settings = vars(args) | {"script": "train_gan.py"}
    settings |= {"dataset": train_set.name, "precision": precision}  # what `auto` came to
    ranks.check_same(settings | {"images": (len(train_set), len(test_set))})
    may_change = set(cli.MAY_CHANGE)
    may_change -= {"epochs"} if args.schedule == "linear" else set()  # the rates depend on them
    folder = ranks.together(
        lambda: RunFolder(args.output_dir, settings, may_change, args.resume, ranks.main)
    )
    print(f"data: {train_set.source}")
    print(f"run: {folder.path}, recipe {args.recipe}, {total_steps} steps, {device}, {precision}")

    torch.manual_seed(args.seed)  # for the initial weights; drawn on the CPU, the same anywhere
    discriminator = Discriminator(args.width).to(device)
    generator = Generator(args.width).to(device)
    average = copy.deepcopy(generator).eval() if args.ema_decay else None
    rates = {"lr": args.lr, "kernel_lr": args.kernel_lr, "betas": (0.0, 0.9)}
    rates |= {"momentum": args.momentum, "normalise": True}
    rates |= {"dtype": torch.bfloat16 if precision == "bf16" else torch.float32}
    d_optimizer = make_optimizer(args.d_optimizer, discriminator, **rates)
    g_optimizer = make_optimizer(args.g_optimizer, generator, **rates)
    if fast:
        keep_rates_on(device, d_optimizer)
        keep_rates_on(device, g_optimizer)
    parts_of_run = {"discriminator": discriminator, "generator": generator}
    parts_of_run |= {"d_optimizer": d_optimizer, "g_optimizer": g_optimizer}
    parts_of_run |= {"average": average} if average else {}
    step, best_accuracy, best_distance = 0, -1.0, math.inf
    totals = {}  # sums of every logged figure since the last record, and how many of each

    with folder, stopping.StopSignal() as stop:
        ranks.together(folder.lock)
        state = ranks.from_main(lambda: folder.load_state("cpu"))
        if state is not None:
            with folder.restoring():
                for name, part in parts_of_run.items():
                    part.load_state_dict(state[name])
                step, best_accuracy = state["step"], state["best_accuracy"]
                if judge in (None, state["judge"]):  # else the distances are not comparable
                    judge, best_distance = state["judge"], state["best_distance"]
                for name, sums in state["totals"].items():
                    totals[name] = ranks.unstack(sums).to(device)
            print(f"resumed after step {step}")
        summary = ranks.from_main(lambda: folder.finished_summary(step, total_steps))
        if summary is not None:
            accuracy = summary["test_accuracy"]
            print(f"finished already: test accuracy {accuracy:.2f} %; nothing to do")
            ranks.close()
            return summary
        ranks.together(lambda: folder.begin(step, describe_device(device)))
        ranks.broadcast(discriminator, generator)
        guard = stopping.FiniteGuard(device)
        updates = make_updates(
            *(args, precision, ranks, guard, discriminator, generator, average),
            *(d_optimizer, g_optimizer),
        )
        update_discriminator, update_generator = (Recorded(update, fast) for update in updates)

        def stop_if_diverged(number=None):
            if (bad := guard.bad_step(number)) > 0:
                sums = {name: ranks.sum(total)[0].item() for name, total in totals.items()}
                folder.raise_diverged(bad, sums)

        def shifts_of(count, stream):
            """This rank's share of `count` random shifts, which only flip if so asked for."""
            reach = 4 if args.augmentation == "shift" else 0
            return Shift(*map(ranks.share, sample_shift(count, stream, reach)))

        def fake_shifts(stream):
            return shifts_of(args.batch_size, stream) if args.augmentation == "shift" else ()

        def draw_curves():
            save_curves(folder.records(), folder.path / "curves.png", panels.GAN)

        def save():
            stop_if_diverged()
            clock.saved()
            state = {name: part.state_dict() for name, part in parts_of_run.items()}
            sums = {name: ranks.stack(total) for name, total in totals.items()}
            state |= {"step": step, "totals": sums}
            state |= {"best_accuracy": best_accuracy, "best_distance": best_distance}
            state |= {"judge": judge}
            return folder.save_state(step, state)

        shown, shown_as = (average, f"EMA {args.ema_decay}") if average else (generator, "raw")

        def export(figures):
            described = {"recipe": args.recipe, "step": step, **test_set.facts()}
            path = folder.path / "discriminator.safetensors"
            folder.attempt(path.name, export_model, discriminator, path, described | figures)
            networks = {"generator.safetensors": (shown, shown_as)}
            if average:
                networks["generator_raw.safetensors"] = (generator, "raw")
            for name, (network, weights) in networks.items():
                about = described | {"weights": weights}
                folder.attempt(name, export_model, network, folder.path / name, about)

        def export_best(found):
            about = {"recipe": args.recipe, "step": step, **test_set.facts(), **found}
            about |= {"weights": shown_as}
            path = folder.path / "generator_best.safetensors"
            folder.attempt(path.name, export_model, shown, path, about)

        def save_samples():
            epochs_done = step / steps_per_epoch
            path = folder.path / "samples" / f"{math.ceil(epochs_done):03d}.png"
            path.parent.mkdir(exist_ok=True)
            title = f"{train_set.name}, epoch {epochs_done:.4g}, {shown_as} generator"
            images = preview(shown, args.seed, precision, device)
            save_image_grid(images, path, train_set.class_names, title)

        if step == 0:
            folder.attempt("the samples", save_samples)
        figures = {}
        order_epoch = None
        progress = Progress("gan", total_steps, args.batch_size, step)
        while step < total_steps:
            epoch, batch = divmod(step, steps_per_epoch)
            if epoch != order_epoch:
                order_epoch = epoch
                order = epoch_order(len(train_set), args.seed, epoch).to(device)
            if args.schedule == "linear":
                for optimizer in (d_optimizer, g_optimizer):
                    scale_rates(optimizer, 1 - step / (args.epochs * steps_per_epoch))

            # Everything random is drawn for the whole batch; this rank takes its share of all.
            chosen = order[batch * args.batch_size : (batch + 1) * args.batch_size]
            stream = random_stream(device, args.seed, REAL, step)
            if args.augmentation == "crop":
                drawn = Augmentation(*map(ranks.share, sample_augmentation(len(chosen), stream)))
            else:
                drawn = shifts_of(len(chosen), stream)
            chosen = ranks.share(chosen)
            real, labels = train_set.images[chosen], train_set.labels[chosen]
            real = augment(real, drawn) if args.augmentation == "crop" else shift(real, drawn)

            # (1) Discriminator: raise its score of real images over that of fakes, name the classes
            # of both, keep the gradient's norm near 1 between them.
            stream = random_stream(device, args.seed, FAKE_FOR_D, step)
            inputs = sample_inputs(args.batch_size, generator.latent_dim, stream)
            mix = ranks.share(sample_mix(args.batch_size, device, stream))
            fake_labels, latents = map(ranks.share, inputs)
            shifts = fake_shifts(stream)
            step += 1
            number = torch.full((), step, device=device)
            parts = update_discriminator(
                *(number, real, labels, latents, fake_labels, mix), *shifts
            )

            # (2) Generator, after every gen_train-th step, with fakes of its own: raise their
            # score, and have the class head name the class that was asked for.
            if step % args.gen_train == 0:
                stream = random_stream(device, args.seed, FAKE_FOR_G, step)
                inputs = sample_inputs(args.batch_size, generator.latent_dim, stream)
                labels, latents = map(ranks.share, inputs)
                shifts = fake_shifts(stream)
                parts = parts | update_generator(number, latents, labels, *shifts)

            for name, part in parts.items():
                entry = torch.stack([part, torch.ones_like(part)])
                totals[name] = totals[name] + entry if name in totals else entry
            stop_if_diverged(step)
            progress.step()

            epoch_ends = step % steps_per_epoch == 0 or step == total_steps
            if epoch_ends or (args.log_every_steps and step % args.log_every_steps == 0):
                stop_if_diverged()
                record = {"step": step, "epochs_done": round(step / steps_per_epoch, 4)}
                for name, total in totals.items():
                    total, count = ranks.sum(total).tolist()
                    record[name] = total / count
                totals = {}
                record["lr"] = float(d_optimizer.param_groups[0]["lr"])
                record["images_per_second"] = round(progress.images_per_second(), 1)
                record["peak_memory_gb"] = round(peak_memory(device) / 1e9, 2)
                if epoch_ends:
                    figures = evaluate(discriminator, test_set, precision, ranks)
                    record |= {key: figures[key] for key in ("test_loss", "test_accuracy")}
                if epoch_ends and watch is not None and (epoch + 1) % args.evaluate_every == 0:
                    found = ranks.from_main(lambda: watch(shown))
                    record |= found
                    if found["frechet_distance"] < best_distance:
                        best_distance = found["frechet_distance"]
                        export_best(found)
                folder.log(record)
                progress.report(record)
                progress.start_lap()
            if epoch_ends:
                folder.attempt("the samples", save_samples)
                if clock.curves_due():
                    folder.attempt("curves.png", draw_curves)
            number, due, time_up = ranks.agree(stop.number, clock.save_due(), clock.time_up())
            best = epoch_ends and figures["test_accuracy"] > best_accuracy
            best_accuracy = figures["test_accuracy"] if best else best_accuracy
            epoch_due = epoch_ends and (epoch + 1) % args.save_every_epochs == 0
            if epoch_due or best or due or number or time_up or step == total_steps:
                saved = save()
            if best:
                folder.keep_as_best(saved)
            if epoch_due or step == total_steps:
                export(figures)
            if epoch_ends:
                progress.start_lap()
            if (number or time_up) and step < total_steps:
                progress.close()
                folder.attempt("curves.png", draw_curves)
                saved = ranks.from_main(lambda path=saved: path)  # all wait for rank 0's write
                raise stopping.stopped(number, step, saved, SAVE_FAILED)
        progress.close()

        folder.attempt("curves.png", draw_curves)
        figures = figures or evaluate(discriminator, test_set, precision, ranks)
        export(figures)
        summary = {**(folder.records() or [{}])[-1], **figures, "step": step}
        folder.raise_if_anything_failed()  # before the summary, which would mark the run finished
        folder.write_summary(summary)
        print(f"test accuracy of the discriminator {figures['test_accuracy']:.2f} %")
        print(f"samples: {folder.path / 'samples'}; curves: {folder.path / 'curves.png'}")
        print(f"peak memory: {peak_memory(device) / 1e9:.2f} GB")
        ranks.close()
        folder.raise_if_anything_failed()
        return summary


def main(argv=None):
    args = parse_args(argv)
    return cli.exit_code_of(train, args, USER_ERRORS)


if __name__ == "__main__":
    raise SystemExit(main())
