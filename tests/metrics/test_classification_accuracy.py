from dataclasses import replace

import pytest
import torch

from data_tools import load_dataset, to_signed
from metrics.classification_accuracy import classification_accuracy


def unchanged(images, stream):
    return to_signed(images)


def test_every_epoch_takes_every_image_once_in_an_order_of_its_own():
    train, test = (part.first(300) for part in load_dataset("shapes"))
    indices = torch.arange(300)
    images = torch.zeros_like(train.images)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = (indices % 256).byte(), (indices // 256).byte()
    numbered = replace(train, images=images)

    def batches(seed):
        taken = []

        def augment(images, stream):
            taken.append(images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long())
            return to_signed(images)

        classification_accuracy(numbered, test, augment, width=2, epochs=2, seed=seed)
        return taken

    taken = batches(0)
    assert [len(batch) for batch in taken] == 2 * [128, 128, 44]
    first, second = torch.cat(taken[:3]), torch.cat(taken[3:])
    assert torch.equal(first.sort().values, indices)
    assert torch.equal(second.sort().values, indices)
    assert not torch.equal(first, second)
    again, other = torch.cat(batches(0)), torch.cat(batches(1))
    assert torch.equal(torch.cat(taken), again)
    assert not torch.equal(again, other)


def test_the_augmentation_is_random_and_the_same_for_the_same_seed():
    train, test = (part.first(150) for part in load_dataset("shapes"))

    def draws(seed):
        drawn = []

        def augment(images, stream):
            drawn.append(torch.rand(3, generator=stream))
            return to_signed(images)

        accuracy = classification_accuracy(train, test, augment, width=2, epochs=1, seed=seed)
        return torch.stack(drawn), accuracy

    (first, accuracy), (again, same), (other, _) = draws(0), draws(0), draws(1)
    assert torch.equal(first, again)
    assert accuracy == same
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_real_images_teach_what_noise_does_not():
    train, test = load_dataset("shapes")
    train, test = train.first(4000), test.first(500)
    stream = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, train.images.shape, dtype=torch.uint8, generator=stream)
    real, nothing = (
        classification_accuracy(replace(train, images=images), test, unchanged, width=8, epochs=6)
        for images in (train.images, noise)
    )
    assert real > 20
    assert nothing < 15
