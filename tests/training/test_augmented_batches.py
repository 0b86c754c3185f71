"""The inputs of the discriminator in train_gan.py: augmented real images and fakes."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import data_tools
import train_gan
from discriminator import Discriminator
from generator import Generator
from processes import SMALL
from steps import inputs_of, outputs_of

STEPS, BATCH, MAX_SHIFT = 2, 16, 4


def moved_versions(images, most):
    """{bytes of an image: (down, right, flip)} for flips and shifts of up to `most` pixels."""
    padded = F.pad(images, [most] * 4, mode="reflect")
    versions = {}
    for down, right in itertools.product(range(-most, most + 1), repeat=2):
        rows, columns = (slice(most + by, most + by + 32) for by in (down, right))
        window = padded[:, :, rows, columns]
        for flip, moved in ((True, window.flip(3)), (False, window)):
            for image in moved:
                versions[image.numpy().tobytes()] = (down, right, flip)
    return versions


def moves_of(batches, versions):
    """The (down, right, flip) of every image of the batches that is in versions."""
    rows = (image.contiguous().numpy().tobytes() for batch in batches for image in batch)
    return [versions[row] for row in rows if row in versions]


@pytest.mark.parametrize("augmentation", ["crop", "flip", "shift"])
def test_augmentation_of_a_run(run_main, tmp_path, augmentation):
    flags = ["--epochs", 1, "--max_steps", STEPS, "--augmentation", augmentation]
    with inputs_of(Discriminator) as seen, outputs_of(Generator) as fakes_of_generator:
        assert run_main(train_gan, *SMALL, *flags, "--output_dir", tmp_path / "run")[0] == 0

    train_set, _ = data_tools.load_shapes()
    most = MAX_SHIFT if augmentation == "shift" else 0
    levels = moved_versions(train_set.images[:80].float(), most)
    real = moves_of([((batch + 1) * 127.5).round() for batch in seen], levels)
    fakes = moves_of(seen, moved_versions(torch.cat(fakes_of_generator), most))
    assert len(fakes) == 2 * STEPS * BATCH  # one batch in each network's update
    if augmentation == "crop":
        assert not real  # resized, with other colors
        assert set(fakes) == {(0, 0, False)}
        return
    assert len(real) == STEPS * BATCH
    assert {flip for _, _, flip in real} == {True, False}
    if augmentation == "flip":
        assert set(fakes) == {(0, 0, False)}
        return
    batches = [moves[i : i + BATCH] for moves in (real, fakes) for i in range(0, len(moves), BATCH)]
    assert len(batches) == 3 * STEPS
    for moves in batches:
        assert len({down for down, _, _ in moves}) > 2
        assert len({right for _, right, _ in moves}) > 2
        assert {flip for _, _, flip in moves} == {True, False}
    assert len(set(map(tuple, batches))) == 3 * STEPS  # independent random numbers
