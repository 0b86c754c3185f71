"""Linear probes, firing rates, separation of classes and similarity of layers.

All measures use pooled features: the maximum of each feature over its map, (n, width), for n
images. A feature fires on an image if this maximum is above 0.
"""

import torch
import torch.nn.functional as F

DECAY = 1e-3  # of a probe's weights
TOP = 9  # activations in the measure `stand_out`
MAX_CORRELATION = 0.5  # of `distinct` features


def fit_probe(features, labels, classes):
    """Weight (width, classes) and bias (classes,) of a multinomial logistic regression, float64.

    Minimizes the mean cross-entropy plus DECAY |weight|^2 by L-BFGS, from zero.
    features: float64 (n, width); labels: int64 (n,).
    """
    weight = torch.zeros(features.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weight + bias, labels) + DECAY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def probe_accuracy(features, labels, test_features, test_labels, classes):
    """Accuracy in % of a linear classifier on the test features.

    features: (n, width); labels: int64 (n,). Both sets are standardized by the mean and variance of
    the first.
    Source: Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes.
    """
    features, test_features = features.double(), test_features.double()
    mean, std = features.mean(0), features.std(0).clamp_min(1e-8)
    weight, bias = fit_probe((features - mean) / std, labels, classes)
    predicted = ((test_features - mean) / std @ weight + bias).argmax(1)
    return 100 * (predicted == test_labels).double().mean().item()


def class_auc(features, labels, classes):
    """Probability that a feature is larger on an image of a class than on one of another class.

    (n, width), int64 (n,) -> float64 (classes, width), the areas under the ROC curves; equal values
    count half. 1: the class has the largest values, 1/2: no preference, or a class without images.
    It does not change if a feature is shifted or multiplied by a positive number.
    """
    columns = features.T.contiguous()
    ordered = columns.sort(1).values
    below, up_to = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
    ranks = (below + up_to + 1).double().T / 2  # from 1; equal values have their mean rank
    member = F.one_hot(labels, classes).double()
    inside = member.sum(0)[:, None]
    larger = member.T @ ranks - inside * (inside + 1) / 2  # pairs of images
    pairs = inside * (len(labels) - inside)
    return torch.where(pairs > 0, larger / pairs.clamp_min(1), 0.5)


def linear_cka(features, others, standardize=False):
    """Similarity of two sets of features of the same images, 0 to 1.

    (n, p), (n, q) -> |Y^T X|^2 / (|X^T X| |Y^T Y|) for centered X and Y. Features of large variance
    dominate; with `standardize` every feature has variance 1.
    Source: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited.
    """
    x, y = (f.double() - f.double().mean(0) for f in (features, others))
    if standardize:
        x, y = (f / f.std(0).clamp_min(1e-8) for f in (x, y))
    cross = (y.mT @ x).norm() ** 2
    return (cross / ((x.mT @ x).norm() * (y.mT @ y).norm()).clamp_min(1e-12)).item()


def stand_out(features):
    """Mean of a feature's 9 largest activations minus its mean, in standard deviations.

    (n, width) -> float64 (width,); 0 for a constant feature.
    """
    features = features.double()
    std = features.std(0)
    highest = features.topk(min(TOP, len(features)), dim=0).values.mean(0)
    return torch.where(std > 1e-8, (highest - features.mean(0)) / std.clamp_min(1e-8), 0.0)


def distinct(features, measure, count):
    """At most `count` features with the largest measure, without correlated ones: int64.

    A feature is left out if the absolute value of its correlation with a feature before it exceeds
    MAX_CORRELATION. features: (n, width); measure: (width,).
    """
    correlated = features.double().T.corrcoef().abs() > MAX_CORRELATION  # nan if constant
    chosen = []
    for feature in measure.argsort(descending=True, stable=True).tolist():
        if len(chosen) < count and not correlated[feature, chosen].any():
            chosen.append(feature)
    return torch.tensor(chosen, dtype=torch.int64)
