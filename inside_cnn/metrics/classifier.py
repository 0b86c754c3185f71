"""The class head of a discriminator on a dataset: predictions, loss, accuracy."""

import torch
import torch.nn.functional as F

from data_tools import to_signed
from discriminator import NUM_LAYERS
from inside_cnn.core.device import autocast
from inside_cnn.core.progress import with_progress

BATCH = 500  # images in a pass


@torch.no_grad()
def features_and_logits(discriminator, images, precision="fp32", title=""):
    """The pooled features of the last layer and the class logits, in eval mode.

    images: uint8 (n, 3, 32, 32) on any device -> (n, width), (n, num_classes), float32, on the
    model's device. precision: of the blocks. The head is in float32, since logits in bfloat16 often
    are equal. A title adds a progress bar.
    """
    training = discriminator.training
    discriminator.eval()
    device = next(discriminator.parameters()).device
    features, logits = [], []
    for batch in with_progress(images.split(BATCH), title, BATCH):
        with autocast(device, precision):
            maps = discriminator.features(to_signed(batch.to(device)), NUM_LAYERS)
        maps = maps.float()
        features.append(discriminator.pool(maps))
        logits.append(discriminator.head(maps)[1])
    discriminator.train(training)
    return torch.cat(features), torch.cat(logits)


def evaluate(discriminator, dataset, precision, ranks=None):
    """Loss, accuracy and accuracy per class (in %) on a Dataset.

    `per_class_accuracy` omits classes without images. With `ranks`, each rank predicts its shard of
    the images, and all return the metrics of the complete dataset.
    """
    shard = ranks.shard if ranks else lambda rows: rows
    labels = shard(dataset.labels)
    _, logits = features_and_logits(discriminator, shard(dataset.images), precision)
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
