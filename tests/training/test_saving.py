"""--save_every_epochs changes when files are written, and nothing else."""

import pytest

import train_discriminator
import train_gan
from compare import assert_same_run
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import load_model
from inside_cnn.training import checkpoint
from processes import SMALL
from steps import at_pass

EPOCHS, STEPS = 3, 5  # and steps in an epoch


def watch(run_main, folder, script, kind, *flags):
    """Train for EPOCHS epochs; returns the contents of the folder after each epoch.

    {epoch: (steps of the checkpoints, {export: its step})}
    """
    seen = {}

    def view(epoch):
        paths = checkpoint.list_checkpoints(folder / "checkpoints")
        steps = {checkpoint.checkpoint_step(path) for path in paths}
        exports = folder.glob("*.safetensors")
        seen[epoch] = steps, {path.name: load_model(path)[1]["step"] for path in exports}

    # The files of an epoch are written before the first pass of the next.
    actions = {epoch * STEPS + 1: lambda epoch=epoch: view(epoch) for epoch in range(1, EPOCHS)}
    arguments = [*SMALL, "--epochs", EPOCHS, "--output_dir", folder, *flags]
    with at_pass(kind, actions):
        assert run_main(script, *arguments)[0] == 0
    view(EPOCHS)
    return seen


@pytest.mark.parametrize(
    ("script", "kind"), [(train_gan, Generator), (train_discriminator, Discriminator)]
)
def test_saving_every_second_epoch_gives_the_same_run(run_main, tmp_path, script, kind):
    """Saves and exports after epochs 2 and 3, the last."""
    folder, often = tmp_path / "every second", tmp_path / "every"
    seen = watch(run_main, folder, script, kind, "--save_every_epochs", 2)
    for epoch, (steps, exports) in seen.items():
        saved = [e for e in range(1, epoch + 1) if e % 2 == 0 or e == EPOCHS]
        assert steps == {STEPS * e for e in saved}
        names = {"discriminator.safetensors"}
        if script is train_gan:
            names |= {"generator.safetensors", "generator_raw.safetensors"}
        assert exports == (dict.fromkeys(names, STEPS * saved[-1]) if saved else {})

    for epoch, (steps, exports) in watch(run_main, often, script, kind).items():
        assert steps == {STEPS * e for e in range(max(1, epoch - 1), epoch + 1)}
        assert exports["discriminator.safetensors"] == STEPS * epoch
    assert {path.name for path in folder.iterdir()} == {path.name for path in often.iterdir()}
    assert_same_run(folder, often)
