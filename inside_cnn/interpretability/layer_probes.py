"""What each layer knows: linear probes, how often features fire, class selectivity, similarity.

Every measure is of pooled features: the maximum of each feature over its map, (n, width). A feature
fires on an image if that maximum is above 0.
"""

import torch
import torch.nn.functional as F

from data_tools import to_signed
from inside_cnn.core.progress import with_progress

MIN_FIRING_RATE = 0.01  # of a feature that `selective_features` considers


@torch.no_grad()
def pooled_features(network, images, batch_size=500, title=""):
    """uint8 (n, 3, 32, 32) -> {layer: float32 (n, width)} on the CPU, computed in float32."""
    parts_of = {layer: [] for layer in network.layer_names}
    for batch in with_progress(images.split(batch_size), title, batch_size):
        for layer, maps in network.at("fp32").activations_of(to_signed(batch), parts_of):
            parts_of[layer].append(network.pool(maps).cpu())
    return {layer: torch.cat(parts) for layer, parts in parts_of.items()}


def fit_probe(features, labels, classes, decay=1e-3):
    """Weight (width, classes) and bias (classes,) of a multinomial logistic regression, float64.

    features: float64 (n, width); labels: int64 (n,). The minimum of the mean cross-entropy plus
    `decay` |weight|^2, by L-BFGS from zero: no seed, no schedule.
    """
    weight = torch.zeros(features.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weight + bias, labels) + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def probe_accuracy(features, labels, test_features, test_labels, classes=10, decay=1e-3):
    """Accuracy in % on the test features of a linear classifier of the others.

    features: (n, width); labels: int64 (n,). Both sets are scaled as the first has mean 0 and
    variance 1.
    Source: Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes.
    """
    features, test_features = features.double(), test_features.double()
    mean, std = features.mean(0), features.std(0).clamp_min(1e-8)
    weight, bias = fit_probe((features - mean) / std, labels, classes, decay)
    named = ((test_features - mean) / std @ weight + bias).argmax(1)
    return 100 * (named == test_labels).double().mean().item()


def firing_rate(features):
    """Share of the images on which each feature fires: (n, width) -> float64 (width,)."""
    return (features > 0).double().mean(0)


def selectivity(features, labels, classes=10):
    """Each feature's (a - b) / (a + b): a its mean over the class it likes best, b over the others.

    Negative activations count as 0. 0: all classes alike; 1: one class alone; 0 if it never fires.
    A feature that fires on few images has a high selectivity whatever it responds to: see
    `selective_features`.
    (n, width), int64 (n,) -> float64 (width,). A class without an image is ignored.
    Source: Morcos et al. 2018, On the importance of single directions for generalization.
    """
    active = features.double().clamp_min(0)
    counts = labels.bincount(minlength=classes).double()
    sums = F.one_hot(labels, classes).double().mT @ active
    means = sums / counts.clamp_min(1)[:, None]
    best, which = means.max(0)
    rest = sums.sum(0) - sums.gather(0, which[None])[0]
    rest = rest / (counts.sum() - counts[which]).clamp_min(1)
    return (best - rest) / (best + rest).clamp_min(1e-12)


def selective_features(features, labels, classes=10, *, threshold=0.5, shuffles=100, seed=0):
    """Which features respond to one class: (n, width), int64 (n,) -> bool (width,).

    Those that fire on at least 1 % of the images and whose selectivity exceeds both the threshold
    and the 99th percentile of their own selectivity over `shuffles` random orders of the labels.
    """
    stream = torch.Generator().manual_seed(seed)
    orders = (torch.randperm(len(labels), generator=stream) for _ in range(shuffles))
    null = torch.stack([selectivity(features, labels[order], classes) for order in orders])
    measured = selectivity(features, labels, classes)
    frequent = firing_rate(features) >= MIN_FIRING_RATE
    return frequent & (measured > threshold) & (measured > null.quantile(0.99, dim=0))


def class_selectivity(features, labels, label):
    """As `selectivity`, of one given class: (n, width), int64 (n,) -> float64 (width,), -1 to 1.

    Raises ValueError where no image, or every one, is of the class.
    """
    own = labels == label
    if own.all() or not own.any():
        raise ValueError(f"class {label} has no image, or every one")
    active = features.double().clamp_min(0)
    inside, outside = active[own].mean(0), active[~own].mean(0)
    return (inside - outside) / (inside + outside).clamp_min(1e-12)


def linear_cka(features, others, standardize=False):
    """Similarity of two sets of features of the same images: 0 to 1; 1 up to rotation and scaling.

    (n, p), (n, q) -> |Y^T X|^2 / (|X^T X| |Y^T Y|) for centered X and Y. Features of large variance
    dominate it; with `standardize` every feature has variance 1.
    Source: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited.
    """
    x, y = (f.double() - f.double().mean(0) for f in (features, others))
    if standardize:
        x, y = (f / f.std(0).clamp_min(1e-8) for f in (x, y))
    cross = (y.mT @ x).norm() ** 2
    return (cross / ((x.mT @ x).norm() * (y.mT @ y).norm()).clamp_min(1e-12)).item()


def most_alike(features, others, feature):
    """(number, correlation) of the other feature whose activations go with this one's most.

    features: (n, width), others: (n, width'), of the same images. Pearson's; 0 with what never
    changes.
    """
    own = features[:, feature].double()
    own, others = own - own.mean(), others.double() - others.double().mean(0)
    scale = own.norm() * others.norm(dim=0)
    correlation = (own @ others) / scale.clamp_min(1e-12)
    best = correlation.argmax()
    return best.item(), correlation[best].item()


def stand_out(features, top=9):
    """How far a feature's `top` largest activations stand above its mean, in standard deviations.

    (n, width) -> float64 (width,); 0 for a feature that never changes.
    """
    features = features.double()
    std = features.std(0)
    highest = features.topk(min(top, len(features)), dim=0).values.mean(0)
    return torch.where(std > 1e-8, (highest - features.mean(0)) / std.clamp_min(1e-8), 0.0)


def distinct(features, measure, count, limit=0.5):
    """The features with the largest measure, each unlike those before it: at most `count` numbers.

    Of features that go together, whose correlation over the images exceeds `limit` either way, the
    first is taken. features: (n, width), measure: (width,) -> int64.
    """
    rows = features.double()
    rows = rows - rows.mean(0)
    rows = rows / rows.norm(dim=0).clamp_min(1e-8)
    alike = (rows.T @ rows).abs() > limit
    chosen = []
    for feature in measure.argsort(descending=True, stable=True).tolist():
        if len(chosen) < count and not alike[feature, chosen].any():
            chosen.append(feature)
    return torch.tensor(chosen)
