import contextlib
import json

import pytest
import torch
from torch import nn

import data_tools
import train_gan
from compare import assert_equal, records
from discriminator import Discriminator
from engine.device import autocast, pick_device, pick_precision
from engine.weights import load_model
from generator import Generator, sample_latents
from image_sets import cifar10
from steps import at_pass
from training import panels
from training.augmentation import move, sample_shift
from training.ema import EMA
from training.optimizers import make_optimizer
from training.run import TrainingRun

SMALL = [
    *("--dataset", "shapes", "--limit_train", 80, "--limit_test", 40, "--width", 4),
    *("--batch_size", 16, "--device", "cpu", "--precision", "fp32"),
]

# ------------------------------------------------------------------------------ updates


ADAM = ["--recipe", "classic", "--lr", "1e-3", "--ema_decay", "0", "--device", "cpu"]


class Pair:
    """Two small networks, and one update of each as train_gan.py makes it, without a run on disk.

    images: (b, 3, 32, 32) in [-1, 1], the real ones; the fakes are the same each time.
    """

    def __init__(self, run, args, images):
        self.run, self.args, self.images = run, args, images
        self.discriminator, self.generator = Discriminator(width=4), Generator(width=4)
        self.d_optimizer, self.g_optimizer = (
            make_optimizer("adam", network, lr=args.lr, kernel_lr=0.0, betas=(0.0, 0.9))
            for network in (self.discriminator, self.generator)
        )
        stream = torch.Generator().manual_seed(0)
        self.fake_labels, self.z = train_gan.sample_inputs(len(images), 100, stream)
        self.alpha = train_gan.sample_alpha(len(images), images.device, stream)
        self.step = torch.tensor(0)

    def update_discriminator(self, generator=None, shifts=None):
        self.step += 1
        return train_gan.update_discriminator(
            self.run,
            self.args,
            self.discriminator,
            generator or self.generator,
            self.d_optimizer,
            self.step,
            real=self.images,
            labels=torch.arange(len(self.images)),
            z=self.z,
            fake_labels=self.fake_labels,
            alpha=self.alpha,
            shifts=shifts,
        )

    def update_generator(self, generator=None, shifts=None, ema=None):
        self.step += 1
        return train_gan.update_generator(
            self.run,
            self.args,
            self.discriminator,
            generator or self.generator,
            ema or EMA(self.generator, 0.0),
            self.g_optimizer,
            self.step,
            z=self.z,
            labels=self.fake_labels,
            shifts=shifts,
        )


@pytest.fixture
def make_pair(images):
    """make_pair(*flags) -> a Pair of the same weights each time."""
    with contextlib.ExitStack() as runs:

        def make(*flags):
            args = train_gan.parse_args([*ADAM, "--precision", "fp32", *map(str, flags)])
            torch.manual_seed(0)
            run = runs.enter_context(TrainingRun(args, "train_gan.py", panels.GAN))
            return Pair(run, args, images)

        yield make


@pytest.fixture
def pair(make_pair):
    return make_pair()


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def test_each_update_changes_its_own_network_only(pair):
    discriminator, generator = pair.discriminator, pair.generator
    d_before, g_before = parameters(discriminator), parameters(generator)
    pair.update_discriminator()
    assert_equal(g_before, parameters(generator))
    # The critic head's bias cancels in D(real) - D(fake), so nothing moves it.
    moved = zip(discriminator.named_parameters(), d_before, strict=True)
    moved = {name for (name, p), before in moved if not torch.equal(p, before)}
    assert {name for name, _ in discriminator.named_parameters()} - moved <= {"critic_head.bias"}
    assert all(p.grad is None for p in generator.parameters())

    d_before = parameters(discriminator)
    d_gradients = [p.grad.clone() for p in discriminator.parameters()]
    pair.update_generator()
    assert_equal(d_before, parameters(discriminator))
    assert_equal(d_gradients, [p.grad for p in discriminator.parameters()])
    changed = [not torch.equal(a, b) for a, b in zip(g_before, generator.parameters(), strict=True)]
    assert all(changed)
    assert all(p.requires_grad for p in discriminator.parameters())


def test_a_rarer_penalty_weighs_as_many_times_more(make_pair):
    every, fourth = make_pair(), make_pair("--gp_every", 4)
    parts, other = every.update_discriminator(), fourth.update_discriminator()
    more = 3 * every.args.gp_weight * parts["gradient_penalty"]
    assert other["discriminator_loss"].item() == pytest.approx(
        (parts["discriminator_loss"] + more).item(), rel=1e-4
    )


def test_weights_of_the_class_losses_are_those_of_the_flags(make_pair):
    plain, weighted = (
        make_pair(),
        make_pair("--d_fake_class_weight", 0.25, "--g_class_weight", 0.5, "--gp_weight", 2),
    )
    parts, other = plain.update_discriminator(), weighted.update_discriminator()
    less = 0.75 * parts["class_loss_fake"] + 8 * parts["gradient_penalty"]
    assert other["discriminator_loss"].item() == pytest.approx(
        (parts["discriminator_loss"] - less).item(), rel=1e-4
    )
    fresh = make_pair(), make_pair("--g_class_weight", 0.5)
    parts, other = (p.update_generator() for p in fresh)
    less = 0.5 * parts["generator_class_loss"]
    assert other["generator_loss"].item() == pytest.approx(
        (parts["generator_loss"] - less).item(), rel=1e-4
    )


def test_an_update_that_diverged_is_not_taken(pair):
    pair.update_discriminator()
    before = parameters(pair.discriminator)
    pair.images = pair.images * float("nan")
    pair.update_discriminator()
    assert_equal(before, parameters(pair.discriminator))
    assert pair.run.guard.bad_step() == 2


def test_the_average_follows_the_generator_one_update_in_gen_train_steps(make_pair):
    pair = make_pair("--gen_train", 2)
    ema, before = EMA(pair.generator, 0.5), parameters(pair.generator)
    pair.step += 1  # the generator's first update comes at the discriminator's second step
    pair.update_generator(ema=ema)
    # No update before: d = 1/10.
    expected = [0.1 * a + 0.9 * b for a, b in zip(before, pair.generator.parameters(), strict=True)]
    for average, value in zip(ema.model.parameters(), expected, strict=True):
        assert torch.allclose(average, value, atol=1e-6)


def test_discriminator_steps_lower_its_loss(pair):
    losses = [pair.update_discriminator()["discriminator_loss"].item() for _ in range(30)]
    assert losses[-1] < losses[0] - 1


def test_generator_steps_lower_its_loss(pair):
    losses = [pair.update_generator()["generator_loss"].item() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1


def test_preview_is_fixed_and_leaves_the_generator_in_train_mode(make_pair):
    pair = make_pair()
    generator, before = pair.generator, [b.clone() for b in pair.generator.buffers()]
    first = train_gan.preview(pair.run, generator)
    assert first.shape == (100, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, train_gan.preview(pair.run, generator))
    assert not torch.equal(first, train_gan.preview(make_pair("--seed", 1).run, generator))
    assert generator.training
    assert_equal(before, list(generator.buffers()))


def test_shifts_move_the_fakes_that_both_networks_see(make_pair):
    """The same metrics and weights as with a generator whose images come out moved."""
    shifts = sample_shift(8, torch.Generator().manual_seed(0))

    class Moved(nn.Module):
        def __init__(self, generator):
            super().__init__()
            self.generator = generator

        def forward(self, z):
            return move(self.generator(z), shifts)

    def both(moved_by, wrapped=False):
        pair = make_pair()
        generator = Moved(pair.generator) if wrapped else None
        metrics = pair.update_discriminator(generator, moved_by)
        metrics |= pair.update_generator(generator, moved_by)
        return metrics, parameters(pair.discriminator) + parameters(pair.generator)

    (metrics, weights), (expected, expected_weights) = both(shifts), both(None, wrapped=True)
    assert metrics == expected
    assert_equal(weights, expected_weights)
    still, _ = both(None)
    assert still["generator_loss"] != metrics["generator_loss"]
    assert still["critic_gap"] != metrics["critic_gap"]


# ------------------------------------------------------------------------------ the script


@pytest.fixture
def small_run(run_main, tmp_path):
    def call(*more, folder="run"):
        return run_main(train_gan, *SMALL, "--output_dir", tmp_path / folder, *more)

    return call


def test_main_leaves_a_whole_run(small_run, tmp_path):
    code, out, _ = small_run("--epochs", 2)
    assert code == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "metrics.jsonl", "summary.json", "curves.png", "checkpoints", "samples"),
        *("discriminator.safetensors", "generator.safetensors", "generator_raw.safetensors"),
        ".lock",
    }
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        f"{epoch:03d}.png" for epoch in range(3)
    ]
    lines = records(folder)
    assert [line["step"] for line in lines] == [5, 10]
    logged = {
        *("critic_gap", "gradient_penalty", "gradient_norm", "class_loss_real", "class_loss_fake"),
        *("class_accuracy_real", "class_accuracy_fake", "generator_loss", "test_accuracy"),
        *("discriminator_loss", "generator_class_loss", "test_loss", "step", "epochs_done", "lr"),
    }
    assert lines[0].keys() - {"kernel_lr"} == logged
    average, metadata = load_model(folder / "generator.safetensors", kind="generator")
    raw, raw_metadata = load_model(folder / "generator_raw.safetensors")
    assert metadata["weights"] == "EMA 0.999"
    assert raw_metadata["weights"] == "raw"
    assert metadata["class_names"][4] == "star"
    latents = sample_latents(torch.arange(10))
    assert not torch.equal(average(latents), raw(latents))
    model, metadata = load_model(folder / "discriminator.safetensors")
    _, test_set = data_tools.load_shapes()
    figures = train_gan.evaluate(model, test_set.first(40), "fp32")
    assert figures["test_accuracy"] == metadata["test_accuracy"]
    assert json.loads((folder / "summary.json").read_text())["step"] == 10
    code, out, _ = small_run("--epochs", 2)
    assert code == 0
    assert "finished already" in out


def test_no_average_and_more_discriminator_steps(small_run, tmp_path):
    flags = ["--epochs", 1, "--ema_decay", 0, "--gen_train", 2, "--log_every_steps", 1]
    with at_pass(Generator, {3: lambda: pytest.fail("a third generator step")}):
        assert small_run(*flags)[0] == 0
    folder = tmp_path / "run"
    of_generator = ["generator_loss" in line for line in records(folder)]
    assert of_generator == [False, True, False, True, False]
    assert all("discriminator_loss" in line for line in records(folder))
    assert not (folder / "generator_raw.safetensors").exists()
    assert load_model(folder / "generator.safetensors")[1]["weights"] == "raw"


def test_extra_log_lines(small_run, tmp_path):
    small_run("--epochs", 1, "--max_steps", 4, "--log_every_steps", 3)
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 4]
    assert "test_accuracy" not in lines[0]
    assert "test_accuracy" in lines[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", 81], "larger than the set"),
        (["--device", "cuda:99"], "--device"),
        (["--precision", "int4"], "--precision"),
        (["--dataset", "cifar10", "--data_dir", "{tmp}"], "no CIFAR-10"),
    ],
)
def test_bad_input_writes_nothing(refused, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(cifar10.CIFAR10, "url", "http://127.0.0.1:9/none")
    flags = [str(flag).replace("{tmp}", str(tmp_path / "none")) for flag in flags]
    run = tmp_path / "run"
    assert message in refused(train_gan, *SMALL, "--output_dir", run, *flags)
    assert not run.exists()


def test_a_run_of_the_other_script_is_refused(small_run, refused, tmp_path):
    import train_discriminator

    small_run("--epochs", 1)
    err = refused(train_discriminator, *SMALL, "--output_dir", tmp_path / "run", "--epochs", 1)
    assert "other settings" in err


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.3)])
def test_updates_on_cuda_agree_with_the_cpu(images, precision, tolerance):
    """The gradients of one update of each network against float32 on the CPU."""
    gradients = []
    for name, at in (("cpu", "fp32"), ("cuda", precision)):
        device = pick_device(name)
        pick_precision(at, device)
        torch.manual_seed(0)
        discriminator = Discriminator(width=16).to(device)
        generator = Generator(width=16).to(device)
        real, labels = images.to(device), torch.arange(8, device=device)
        latents = sample_latents(torch.arange(8), generator=torch.Generator().manual_seed(1))
        with autocast(device, at):
            fake = generator(latents.to(device)).float()
            loss, _ = train_gan.generator_loss(discriminator, fake, labels)
            g_gradients = torch.autograd.grad(loss, list(generator.parameters()))
            # real = fake: then x_hat is known, though the devices draw different weights.
            loss, _ = train_gan.discriminator_loss(
                discriminator, real, labels, real, labels, alpha=real.new_ones(8, 1, 1, 1)
            )
        d_gradients = torch.autograd.grad(loss, list(discriminator.parameters()))
        flat = [g.flatten().double().cpu() for g in (*g_gradients, *d_gradients)]
        gradients.append(torch.cat(flat))
    expected, found = gradients
    assert (found - expected).norm() / expected.norm() < tolerance


@pytest.mark.gpu
def test_main_on_cuda_with_resume(run_main, tmp_path):
    flags = [*SMALL, "--device", "cuda", "--precision", "auto", "--output_dir", tmp_path / "run"]
    assert run_main(train_gan, *flags, "--epochs", 2, "--max_steps", 5)[0] == 0
    code, out, _ = run_main(train_gan, *flags, "--epochs", 2)
    assert code == 0
    assert "resumed after step 5" in out
