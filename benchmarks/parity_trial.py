"""The plain classifier with averaged weights, and the two augmentations image by image.

    python benchmarks/parity_trial.py train --seed 0
    python benchmarks/parity_trial.py augmentations

`train` prints the test accuracy of plain_reference.py after two epochs of CIFAR-10 at width 64: of
the last weights, and of their moving average with decay 0.99. The shipped side is
`train_discriminator.py --recipe classic --width 64 --epochs 2 --ema_decay 0.99 --precision P`.
`augmentations` compares 40 views each of 400 training images.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from PIL import Image

import plain_reference as plain
from data_tools import load_dataset
from inside_cnn.training.augmentation import augment, sample_augmentation

IMAGES, VIEWS = 400, 40


def train(seed, train_set, test_set):
    torch.manual_seed(seed)
    model = plain.PlainDiscriminator(64)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    options = {"transform": plain.TRAIN_TRANSFORM, "batch_size": 128}
    batches = plain.loader(train_set.images, train_set.labels, **options)
    options = {"transform": plain.TEST_TRANSFORM, "batch_size": 500, "shuffle": False}
    test = plain.loader(test_set.images, test_set.labels, **options)
    for _ in range(2):
        for images, labels in batches:
            plain.classifier_step(model, optimizer, images, labels)
            averaged.update_parameters(model)
    print(
        f"averaged {plain.accuracy(averaged, test):.2f} %, last {plain.accuracy(model, test):.2f} %"
    )


def spectrum(views):
    """Mean power at each whole spatial frequency from 0 to 16 cycles per image: (17,)."""
    power = torch.fft.fft2(views, norm="ortho").abs().square().mean((0, 1, 2))
    frequency = torch.fft.fftfreq(32) * 32
    radius = (frequency[:, None].square() + frequency.square()).sqrt().round()
    return torch.stack([power[radius == r].mean() for r in range(17)])


def augmentations(images):
    torch.manual_seed(0)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    one_by_one = [[plain.TRAIN_TRANSFORM(p) for _ in range(VIEWS)] for p in pictures]
    plain_views = torch.stack([torch.stack(views) for views in one_by_one])
    stream = torch.Generator().manual_seed(1)
    parameters = [sample_augmentation(len(images), stream) for _ in range(VIEWS)]
    shipped_views = torch.stack([augment(images, p) for p in parameters], 1)
    for name, views in (("plain", plain_views), ("shipped", shipped_views)):
        means = views.mean((3, 4))
        print(
            f"{name}: mean {views.mean():.4f}, standard deviation in a view "
            f"{views.std((3, 4)).mean():.4f}, of an image's mean over views "
            f"{means.std(1).mean():.4f}, variance of a pixel over views {views.var(1).mean():.4f}"
        )
    ratio = spectrum(shipped_views) / spectrum(plain_views)
    print("power, shipped / plain:", " ".join(f"{r:.3f}" for r in ratio.tolist()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("train", "augmentations"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    train_set, test_set = load_dataset("cifar10", args.data_dir)
    if args.what == "train":
        train(args.seed, train_set, test_set)
    else:
        augmentations(train_set.images[:IMAGES])


if __name__ == "__main__":
    main()
