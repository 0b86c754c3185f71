import itertools

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

import data_tools
import train_gan
from discriminator import Discriminator
from generator import Generator
from inside_cnn.training.augmentation import (
    augment,
    move,
    sample_augmentation,
    sample_shift,
    shift,
)
from processes import SMALL
from steps import inputs_of, outputs_of


def random_images(count):
    stream = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=stream, dtype=torch.uint8)


def torchvision_augment(image, top, left, size, flip, brightness, contrast, saturation, hue):
    x = image.float() / 255
    box = [int(v) for v in (top, left, size, size)]
    x = tvf.resized_crop(x, *box, [32, 32], InterpolationMode.BILINEAR, antialias=True)
    x = tvf.hflip(x) if flip else x
    x = tvf.adjust_brightness(x, brightness)
    x = tvf.adjust_contrast(x, contrast)
    x = tvf.adjust_saturation(x, saturation)
    return tvf.adjust_hue(x, hue) * 2 - 1


def test_augmentation_against_torchvision():
    """With all parameters at random. The first two images have no hue."""
    images, params = random_images(64), sample_augmentation(64, torch.Generator().manual_seed(2))
    images[0], images[1] = 100, 0
    ours = augment(images, params)
    for index, image in enumerate(images):
        theirs = torchvision_augment(image, *(field[index].item() for field in params))
        assert (ours[index] - theirs).abs().max() < 2e-5
    assert ours.dtype == torch.float32
    assert ours.min() >= -1
    assert ours.max() <= 1


def test_sampled_parameters_have_the_documented_ranges():
    params = sample_augmentation(20_000, torch.Generator().manual_seed(3))
    assert set(params.size.unique().tolist()) == {27.0, 28, 29, 30, 31, 32}
    for offset in (params.top, params.left):
        assert offset.min() == 0
        assert (offset + params.size).max() == 32
        assert torch.equal(offset, offset.round())
    small = params.top[params.size == 27]
    assert torch.bincount(small.long()).min() > 0.8 * len(small) / 6  # uniform over 0 to 5
    assert abs(params.flip.float().mean() - 0.5) < 0.02
    for factor in (params.brightness, params.contrast, params.saturation):
        assert factor.min() >= 0.9
        assert factor.max() <= 1.1
        assert factor.std() > 0.05
    assert params.hue.abs().max() <= 0.1


def torchvision_shift(image, down, right, flip, cutout_top, cutout_left, cutout):
    """Reflection padding, a crop, a flip, and a cutout that may extend beyond the edges."""
    x = tvf.pad(image, 4, padding_mode="reflect")[:, 4 + down : 36 + down, 4 + right : 36 + right]
    x = (tvf.hflip(x) if flip else x).float() / 127.5 - 1
    top, left = cutout_top - cutout // 2, cutout_left - cutout // 2
    x[:, max(top, 0) : max(top + cutout, 0), max(left, 0) : max(left + cutout, 0)] = 0
    return x


@pytest.mark.parametrize("cutout", [0, 1, 8, 32])
def test_shift_against_torchvision(cutout):
    images = random_images(12)
    params = sample_shift(12, torch.Generator().manual_seed(4))
    ours = shift(images, params, cutout)
    for index, image in enumerate(images):
        expected = torchvision_shift(image, *(field[index].item() for field in params), cutout)
        assert (ours[index] - expected).abs().max() < 1e-6


def test_move_of_floats_is_differentiable():
    images = random_images(4)
    params = sample_shift(4, torch.Generator().manual_seed(5))
    moved = move(data_tools.to_signed(images), params)
    assert torch.allclose(moved, shift(images, params), atol=1e-6)
    small = torch.rand(4, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: move(x, params), small)


def test_sampled_shifts_have_the_documented_ranges():
    params = sample_shift(20_000, torch.Generator().manual_seed(3))
    for field, low, high in ((0, -4, 4), (1, -4, 4), (3, 0, 31), (4, 0, 31)):
        counts = torch.bincount(params[field] - low, minlength=high - low + 1)
        assert len(counts) == high - low + 1
        assert counts.min() > 0.8 * 20_000 / len(counts)
    assert abs(params.flip.float().mean() - 0.5) < 0.02


STEPS, BATCH, MAX_SHIFT = 2, 16, 4


def moved_versions(images, most):
    """{bytes of an image: (down, right, flip)} for flips and shifts of up to `most` pixels."""
    padded, offsets, versions = F.pad(images, [most] * 4, mode="reflect"), range(2 * most + 1), {}
    for top, left, flip in itertools.product(offsets, offsets, (True, False)):
        window = padded[:, :, top : top + 32, left : left + 32]
        for image in window.flip(3) if flip else window:
            versions[image.numpy().tobytes()] = (top - most, left - most, flip)
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
