import contextlib
import json
from argparse import Namespace

import pytest
import torch
from PIL import Image

import data_tools
import train_gan
from compare import assert_equal, records
from generator import Generator, sample_latents
from inside_cnn.engine.weights import load_model
from inside_cnn.metrics.classifier import evaluate
from inside_cnn.training import panels
from inside_cnn.training.distributed import Ranks
from inside_cnn.training.run import TrainingRun
from processes import SMALL
from steps import at_pass

# ------------------------------------------------------------------------------ updates


class Updates:
    """The updates of a small GAN with the same inputs each time, without a run on disk.

    images: (b, 3, 32, 32) in [-1, 1], the real ones.
    """

    def __init__(self, run, args, images):
        self.run, self.step = run, torch.tensor(0)
        self.real = images, torch.arange(len(images))
        self.gan = train_gan.GAN(run, args)
        self.discriminator, self.generator = self.gan.discriminator, self.gan.generator
        stream = torch.Generator().manual_seed(0)
        self.inputs = train_gan.sample_fake_inputs(run, args, 10, stream, penalty=True)

    def update_discriminator(self):
        self.step += 1
        return self.gan.update_discriminator(self.step, self.real, self.inputs)

    def update_generator(self):
        self.step += 1
        return self.gan.update_generator(self.step, self.inputs)


@pytest.fixture
def make_updates(images):
    """make_updates(*flags) -> Updates with the same weights each time."""
    flags = ["--recipe", "classic", "--lr", "1e-3", "--device", "cpu", "--precision", "fp32"]
    flags += ["--width", "4", "--batch_size", "8"]
    with contextlib.ExitStack() as runs:

        def make(*more):
            args = train_gan.parse_args([*flags, *map(str, more)])
            run = runs.enter_context(TrainingRun(args, "train_gan.py", panels.GAN))
            return Updates(run, args, images)

        yield make


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def test_each_update_changes_only_its_network(make_updates):
    updates = make_updates()
    discriminator, generator = updates.discriminator, updates.generator
    d_before, g_before = parameters(discriminator), parameters(generator)
    updates.update_discriminator()
    assert_equal(g_before, parameters(generator))
    # The critic head's bias cancels in D(real) - D(fake).
    pairs = zip(discriminator.named_parameters(), d_before, strict=True)
    equal = {name for (name, p), before in pairs if torch.equal(p, before)}
    assert equal <= {"critic_head.bias"}
    assert all(p.grad is None for p in generator.parameters())

    d_before = parameters(discriminator)
    d_gradients = [p.grad.clone() for p in discriminator.parameters()]
    updates.update_generator()
    assert_equal(d_before, parameters(discriminator))
    assert_equal(d_gradients, [p.grad for p in discriminator.parameters()])
    changed = [not torch.equal(a, b) for a, b in zip(g_before, generator.parameters(), strict=True)]
    assert all(changed)
    assert all(p.requires_grad for p in discriminator.parameters())


def test_flags_weight_the_losses(make_updates):
    flags = ["--d_fake_class_weight", 0.25, "--g_class_weight", 0.5, "--gp_weight", 2]
    parts, weighted = (make_updates(*more).update_discriminator() for more in ([], flags))
    less = 0.75 * parts["class_loss_fake"] + 8 * parts["gradient_penalty"]
    expected = parts["discriminator_loss"] - less
    assert weighted["discriminator_loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    parts, weighted = (make_updates(*more).update_generator() for more in ([], flags))
    expected = parts["generator_loss"] - 0.5 * parts["generator_class_loss"]
    assert weighted["generator_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_average_counts_the_steps_of_the_generator(make_updates):
    updates = make_updates("--gen_train", 2, "--ema_decay", 0.5)
    before = parameters(updates.generator)
    updates.step += 1  # the generator's first update comes at the discriminator's second step
    updates.update_generator()
    pairs = zip(before, updates.generator.parameters(), strict=True)
    expected = [0.1 * a + 0.9 * b for a, b in pairs]  # d = 1/10 at the first update
    for average, value in zip(updates.gan.ema.model.parameters(), expected, strict=True):
        assert torch.allclose(average, value, atol=1e-6)


@pytest.mark.parametrize(("network", "less"), [("discriminator", 1), ("generator", 0.1)])
def test_updates_lower_the_loss(make_updates, network, less):
    updates = make_updates()
    update = getattr(updates, f"update_{network}")
    losses = [update()[f"{network}_loss"].item() for _ in range(30)]
    assert losses[-1] < losses[0] - less


@pytest.mark.parametrize(("shrink", "pairs"), [(1, 8), (2, 4), (3, 3)])
def test_random_inputs_do_not_depend_on_the_number_of_processes(shrink, pairs):
    args = train_gan.parse_args(["--batch_size", "8", "--gp_batch_shrink", str(shrink)])

    def inputs(world, rank):
        ranks = Ranks()
        ranks.world, ranks.rank = world, rank
        run = Namespace(ranks=ranks, shard=ranks.shard, device=torch.device("cpu"))
        stream = torch.Generator().manual_seed(0)
        return train_gan.sample_fake_inputs(run, args, 10, stream, penalty=True)

    alone, ranks = inputs(1, 0), [inputs(2, 0), inputs(2, 1)]
    assert len(alone.alpha) == pairs
    for field in (lambda x: x.z, lambda x: x.labels, lambda x: x.shifts.down, lambda x: x.alpha):
        for rank, shard in enumerate(ranks):
            assert torch.equal(field(shard), field(alone)[rank::2])


# ------------------------------------------------------------------------------ the script


@pytest.fixture
def small_run(succeed, tmp_path):
    """Train in a folder `run`. Returns stdout."""
    return lambda *flags: succeed(train_gan, *SMALL, "--output_dir", tmp_path / "run", *flags)


def test_files_of_a_run(small_run, matplotlib_plots, tmp_path):
    small_run("--epochs", 2)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "metrics.jsonl", "summary.json", "curves.png", "checkpoints", "samples"),
        *("discriminator.safetensors", "generator.safetensors", "generator_raw.safetensors"),
        ".lock",
    }
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        f"{epoch:03d}.png" for epoch in range(3)
    ]
    with Image.open(folder / "curves.png") as curves:
        assert curves.width > 500
    with Image.open(folder / "samples/002.png") as grid:
        assert grid.width == 10 * 100 + 4  # each pixel is 3x3, with gaps of 4
    lines = records(folder)
    assert [line["step"] for line in lines] == [5, 10]
    logged = {
        *("critic_gap", "gradient_penalty", "gradient_norm", "class_loss_real", "class_loss_fake"),
        *("class_accuracy_real", "class_accuracy_fake", "generator_loss", "test_accuracy"),
        *("discriminator_loss", "generator_class_loss", "test_loss", "step", "epochs_done", "lr"),
    }
    assert lines[0].keys() - {"muon_lr"} == logged
    average, metadata = load_model(folder / "generator.safetensors", kind="generator")
    raw, raw_metadata = load_model(folder / "generator_raw.safetensors")
    assert metadata["weights"] == "EMA 0.999"
    assert raw_metadata["weights"] == "raw"
    assert metadata["class_names"][4] == "star"
    latents = sample_latents(torch.arange(10))
    assert not torch.equal(average(latents), raw(latents))
    model, metadata = load_model(folder / "discriminator.safetensors")
    _, test_set = data_tools.load_shapes()
    figures = evaluate(model, test_set.first(40), "fp32")
    assert figures["test_accuracy"] == metadata["test_accuracy"]
    assert json.loads((folder / "summary.json").read_text())["step"] == 10
    assert "finished already" in small_run("--epochs", 2)


def test_gen_train_without_average(small_run, tmp_path):
    flags = ["--max_steps", 4, "--ema_decay", 0, "--gen_train", 2, "--log_every_steps", 1]
    with at_pass(Generator, {3: lambda: pytest.fail("a third generator step")}):
        small_run(*flags)
    folder = tmp_path / "run"
    lines = records(folder)
    assert ["generator_loss" in line for line in lines] == [False, True, False, True]
    assert ["test_accuracy" in line for line in lines] == [False, False, False, True]
    assert all("discriminator_loss" in line for line in lines)
    assert not (folder / "generator_raw.safetensors").exists()
    assert load_model(folder / "generator.safetensors")[1]["weights"] == "raw"
