"""The class head of a discriminator on a dataset: predictions, loss, accuracy."""

import torch
import torch.nn.functional as F

from data_tools import to_signed
from discriminator import NUM_LAYERS
from inside_cnn.core.device import autocast


def predict(discriminator, images, precision="fp32"):
    """uint8 (n, 3, 32, 32) on the model's device -> class logits, float32 (n, num_classes).

    precision: of the blocks. The head is in float32, since logits in bfloat16 often are equal.
    """
    training = discriminator.training
    discriminator.eval()
    logits = []
    with torch.no_grad():
        for batch in images.split(500):
            with autocast(images.device, precision):
                features = discriminator.features(to_signed(batch), NUM_LAYERS)
            logits.append(discriminator.head(features.float())[1])
    discriminator.train(training)
    return torch.cat(logits)


def evaluate(discriminator, dataset, precision, ranks=None):
    """Loss, accuracy and accuracy per class (in %) on a Dataset.

    `per_class_accuracy` omits classes without images. With `ranks`, each rank predicts its shard of
    the images, and all return the metrics of the complete dataset.
    """
    shard = ranks.shard if ranks else lambda rows: rows
    labels = shard(dataset.labels)
    logits = predict(discriminator, shard(dataset.images), precision)
    losses = F.cross_entropy(logits, labels, reduction="none")
    correct = (logits.argmax(1) == labels).float()
    num_classes = len(dataset.class_names)
    sums = torch.stack(
        [torch.bincount(labels, w, minlength=num_classes) for w in (None, correct, losses)]
    ).double()  # images, correct predictions and losses of each class
    images, correct, losses = (ranks.all_reduce(sums) if ranks else sums).cpu()
    accuracies = (100 * correct / images.clamp_min(1)).tolist()
    rows = zip(dataset.class_names, images.tolist(), accuracies, strict=True)
    return {
        "test_loss": (losses.sum() / images.sum()).item(),
        "test_accuracy": round(100 * (correct.sum() / images.sum()).item(), 4),
        "per_class_accuracy": {name: round(accuracy, 4) for name, count, accuracy in rows if count},
    }
