"""What reaches the discriminator in train_gan.py: real images and fakes, changed as asked for."""

import pytest
import torch
import torch.nn.functional as F

import data_tools
import train_gan
from discriminator import Discriminator
from generator import Generator
from processes import SMALL
from steps import inputs_of, outputs_of

STEPS, BATCH, REACH = 2, 16, 4


def moved_versions(images):
    """{bytes of an image: (down, right, flip)} for every image, move by up to REACH and mirror.

    An independent way: padded by reflection, a window cut out, turned round.
    """
    padded = F.pad(images, [REACH] * 4, mode="reflect")
    versions = {}
    for flip in (True, False):
        for down in range(-REACH, REACH + 1):
            for right in range(-REACH, REACH + 1):
                rows, columns = (slice(REACH + by, REACH + by + 32) for by in (down, right))
                window = padded[:, :, rows, columns]
                for image in window.flip(3) if flip else window:
                    versions[image.numpy().tobytes()] = (down, right, flip)
    return versions


def moves_of(batches, versions):
    """The move of every image of the batches that is among the versions."""
    rows = (image.contiguous().numpy().tobytes() for batch in batches for image in batch)
    return [versions[row] for row in rows if row in versions]


@pytest.mark.parametrize("augmentation", ["crop", "flip", "shift"])
def test_the_run_augments_as_asked(run_main, tmp_path, augmentation):
    flags = ["--epochs", 1, "--max_steps", STEPS, "--augmentation", augmentation]
    with inputs_of(Discriminator) as seen, outputs_of(Generator) as drawn:
        assert run_main(train_gan, *SMALL, *flags, "--output_dir", tmp_path / "run")[0] == 0

    train_set, _ = data_tools.load_shapes()
    levels = moved_versions(train_set.images[:80].float())
    real = moves_of([((batch + 1) * 127.5).round() for batch in seen], levels)
    fakes = moves_of(seen, moved_versions(torch.cat(drawn)))
    assert len(fakes) == 2 * STEPS * BATCH  # one batch in each network's update
    if augmentation == "crop":
        assert not real  # resized, with other colours
        assert set(fakes) == {(0, 0, False)}
        return
    assert len(real) == STEPS * BATCH
    assert {flip for _, _, flip in real} == {True, False}
    if augmentation == "flip":
        assert {move[:2] for move in real} == {(0, 0)}
        assert set(fakes) == {(0, 0, False)}
        return
    batches = [moves[i : i + BATCH] for moves in (real, fakes) for i in range(0, len(moves), BATCH)]
    assert len(batches) == 3 * STEPS
    for moves in batches:
        assert len({down for down, _, _ in moves}) > 2
        assert len({right for _, right, _ in moves}) > 2
        assert {flip for _, _, flip in moves} == {True, False}
    assert len(set(map(tuple, batches))) == 3 * STEPS  # each drawn for itself
