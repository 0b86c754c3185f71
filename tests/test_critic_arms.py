"""train_gan.py --critic: the losses of the control networks."""

import pytest
import torch
import torch.nn.functional as F

import train_gan
from compare import assert_equal, assert_same_run
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import digest, export_model, load_model
from inside_cnn.training import checkpoint
from inside_cnn.training.gan_losses import real_images_loss
from processes import SMALL
from steps import at_pass, outputs_of


@pytest.fixture
def train(run_main, tmp_path):
    """train(folder, *flags) -> the folder of a small run of two steps."""

    def call(folder, *flags):
        own = ["--limit_train", 85, "--max_steps", 2, "--output_dir", tmp_path / folder]
        assert run_main(train_gan, *SMALL, *own, *flags)[0] == 0
        return tmp_path / folder

    return call


def parts_of(folder):
    """Networks and optimizers in the newest checkpoint of a run."""
    return checkpoint.load_latest(folder / "checkpoints")["parts"]


def untrained():
    """Both networks as a small run creates them."""
    torch.manual_seed(0)
    return Discriminator(4), Generator(4)


class FirstPixelSquared(torch.nn.Module):
    """A score whose gradient has the norm |2 x_0|, a function of the position."""

    def forward(self, x):
        return x[:, 0, 0, 0].square(), x.flatten(1)[:, :10]


def test_penalty_is_between_consecutive_real_images(images):
    alpha, labels = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1), torch.arange(8)
    critic, cross_entropy = FirstPixelSquared(), F.cross_entropy(images.flatten(1)[:, :10], labels)
    loss, parts = real_images_loss(critic, images, labels)  # without penalty
    assert loss.item() == pytest.approx(cross_entropy.item())
    assert parts.keys() == {"discriminator_loss", "class_loss_real", "class_accuracy_real"}
    loss, parts = real_images_loss(critic, images, labels, alpha=alpha, gp_weight=2.0)
    x = images[:3, 0, 0, 0]
    norms = 2 * torch.stack([0.25 * x[0] + 0.75 * x[1], 0.75 * x[1] + 0.25 * x[2]]).abs()
    assert parts["gradient_norm"].item() == pytest.approx(norms.mean().item(), rel=1e-5)
    expected = cross_entropy + 2 * (norms - 1).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("critic", ["none", "penalty"])
def test_controls_without_fakes(train, critic):
    """The penalty trains the critic head, too."""
    with outputs_of(Generator) as fakes:
        folder = train(critic, "--critic", critic)
    assert not fakes
    first, trained = untrained()[0], load_model(folder / "discriminator.safetensors")[0]
    unchanged = torch.equal(first.critic_head.weight, trained.critic_head.weight)
    assert unchanged == (critic == "none")
    assert not torch.equal(first.class_head.weight, trained.class_head.weight)
    files = {path.name for path in folder.iterdir()}
    assert not {"samples", "generator.safetensors", "generator_raw.safetensors"} & files


def test_a_frozen_generator_stays_untrained(train):
    with at_pass(Generator, {1: lambda: pytest.fail("the generator learns")}):
        folder = train("frozen", "--critic", "frozen")
    weights = dict(untrained()[1].named_parameters())
    saved = parts_of(folder)["generator"]
    assert_equal({n: p.detach() for n, p in weights.items()}, {n: saved[n] for n in weights})
    assert not (folder / "generator.safetensors").exists()
    metadata = load_model(folder / "discriminator.safetensors")[1]
    assert metadata["critic"] == "frozen"


@pytest.fixture
def fixed_generator(tmp_path):
    """Exported weights, with running averages of BatchNorm."""
    generator, path = Generator(4), tmp_path / "generator.safetensors"
    generator(torch.randn(8, 100))
    export_model(generator, path, {"dataset": "shapes"})
    return path


def test_a_fixed_generator_is_the_exported_one_and_resume_is_exact(train, fixed_generator):
    flags = ["--epochs", 2, "--critic", "trained", "--fixed_generator", fixed_generator]
    whole = train("whole", *flags, "--max_steps", 7)
    exported, _ = load_model(fixed_generator)
    assert_equal(dict(exported.state_dict()), dict(parts_of(whole)["generator"]))
    metadata = load_model(whole / "discriminator.safetensors")[1]
    assert metadata["fixed_generator_sha256"] == digest(exported)
    train("parts", *flags, "--max_steps", 5)
    assert_same_run(whole, train("parts", *flags, "--max_steps", 7))


def test_unsuitable_fixed_generator_is_refused(fixed_generator, refused, tmp_path):
    flags = [*SMALL, "--output_dir", tmp_path / "run", "--critic", "trained", "--fixed_generator"]
    assert "no weights" in refused(train_gan, *flags, "absent")
    for flag, value, message in (
        ("--latent_dim", 50, "takes 100"),
        ("--hold_out", 100, "trained with --hold_out 0, not 100"),
    ):
        assert message in refused(train_gan, *flags, fixed_generator, flag, value)
