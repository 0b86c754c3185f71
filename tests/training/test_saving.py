"""--save_every_epochs: what lies in the folder when, and that it changes nothing else."""

import pytest

import train_discriminator
import train_gan
from compare import assert_equal, assert_same_export, records
from discriminator import Discriminator
from generator import Generator
from inside_cnn.engine.weights import load_model
from inside_cnn.training import checkpoint
from processes import SMALL
from steps import at_pass

EPOCHS, STEPS = 5, 5  # and steps in an epoch


@pytest.fixture
def watched_run(run_main, tmp_path):
    """Train for EPOCHS epochs; returns the folder and what lay in it after each of them.

    {epoch: (steps of the checkpoints, {export: its step})}
    """

    def call(script, kind, *flags):
        folder = tmp_path / "_".join(map(str, ("run", *flags)))
        seen = {}

        def view(epoch):
            checkpoints = folder / "checkpoints"
            seen[epoch] = (
                {
                    checkpoint.checkpoint_step(path)
                    for path in checkpoint.list_checkpoints(checkpoints)
                },
                {path.name: load_model(path)[1]["step"] for path in folder.glob("*.safetensors")},
            )

        # What an epoch leaves is there before the first pass of the next.
        actions = {epoch * STEPS + 1: lambda epoch=epoch: view(epoch) for epoch in range(1, EPOCHS)}
        arguments = [*SMALL, "--epochs", EPOCHS, "--output_dir", folder, *flags]
        with at_pass(kind, actions):
            assert run_main(script, *arguments)[0] == 0
        view(EPOCHS)
        return folder, seen

    return call


@pytest.mark.parametrize(
    ("script", "kind"), [(train_gan, Generator), (train_discriminator, Discriminator)]
)
def test_every_second_epoch_is_saved_and_the_run_is_the_same(watched_run, script, kind):
    """Saved and exported: epochs 2, 4 and the last."""
    folder, seen = watched_run(script, kind, "--save_every_epochs", 2)
    for epoch, (steps, exports) in seen.items():
        saved = [e for e in range(1, epoch + 1) if e % 2 == 0 or e == EPOCHS]
        assert steps == {STEPS * e for e in saved[-2:]}
        names = {"discriminator.safetensors"}
        if script is train_gan:
            names |= {"generator.safetensors", "generator_raw.safetensors"}
        assert exports == (dict.fromkeys(names, STEPS * saved[-1]) if saved else {})

    often, seen = watched_run(script, kind)
    for epoch, (steps, exports) in seen.items():
        assert steps == {STEPS * e for e in range(max(1, epoch - 1), epoch + 1)}
        assert exports["discriminator.safetensors"] == STEPS * epoch
    assert records(folder) == records(often)
    assert {path.name for path in folder.iterdir()} == {path.name for path in often.iterdir()}
    for path in folder.glob("*.safetensors"):
        assert_same_export(path, often / path.name)
    assert_equal(*(checkpoint.load_latest(run / "checkpoints") for run in (folder, often)))
