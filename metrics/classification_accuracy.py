"""The classification accuracy score: what a classifier learns from these images alone."""

import torch
import torch.nn.functional as F

from discriminator import Discriminator
from engine.device import autocast, random_stream
from engine.progress import Progress
from metrics.classifier import evaluate

BATCH_SIZE = 128
LARGEST_RATE = 2e-3  # of Adam; from 1/25 of it up over 30 % of the steps, then down to about 0
AUGMENTATION, ORDER = 21, 22  # names of the random streams


def classification_accuracy(
    train_set, test_set, augment, width, epochs, seed=0, precision="fp32", title=""
):
    """Train a classifier on one set, on the device where it is; its accuracy on the other, in %.

    augment: (images uint8 (b, 3, 32, 32), torch.Generator) -> float32 in [-1, 1]. Every epoch takes
    every image once, in an order that is a function of (seed, epoch).
    Source: Ravuri and Vinyals 2019, Classification Accuracy Score for Conditional Generative
    Models.
    """
    device = train_set.images.device
    torch.manual_seed(seed)
    model = Discriminator(width, num_classes=len(train_set.class_names)).to(device)
    steps = epochs * -(-len(train_set) // BATCH_SIZE)  # the last batch may be smaller
    optimizer = torch.optim.Adam(model.parameters(), LARGEST_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LARGEST_RATE, total_steps=steps)
    progress = Progress(title, steps, BATCH_SIZE)
    step = 0
    for epoch in range(epochs):
        stream = random_stream("cpu", seed, ORDER, epoch)
        order = torch.randperm(len(train_set), generator=stream).to(device)
        for chosen in order.split(BATCH_SIZE):
            stream = random_stream(device, seed, AUGMENTATION, step)
            images = augment(train_set.images[chosen], stream)
            with autocast(device, precision):
                _, class_logits = model(images)
            loss = F.cross_entropy(class_logits.float(), train_set.labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            progress.step()
    progress.close()
    return round(evaluate(model, test_set.to(device), precision)["test_accuracy"], 2)
