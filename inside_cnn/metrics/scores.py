"""Scores of samples against real images, in the features of a classifier, the judge.

Distances, precision and recall are torch-fidelity's, which has no density and coverage.
"""

import functools

import torch

from inside_cnn.core.device import Stream
from inside_cnn.core.errors import UserError
from inside_cnn.engine.weights import check_classes, digest, load_model
from inside_cnn.metrics import sampling
from inside_cnn.metrics.classifier import features_and_logits

KERNEL_SUBSET = 1000  # samples of each side in one estimate of the kernel distance
KERNEL_SUBSETS = 100
NEIGHBORS = 5  # of density and coverage
MIN_SAMPLES = 20
RELIABLE_SAMPLES = KERNEL_SUBSET  # with fewer, distances are biased upward
MANIFOLD_IMAGES = 10_000  # of each side, at most, for precision, recall, density and coverage


def distances(samples, reference, seed=0):
    """Frechet and kernel distance of two sets of features, (n, d) and (m, d), in float64.

    Frechet: between normal distributions of the same means and covariances (Heusel et al. 2017), in
    squared units of the features; it grows as the number of rows falls. Kernel: unbiased squared
    MMD with the kernel (x.y / d + 1)^3, mean and standard deviation over 100 random subsets of 1000
    rows of each side, or of all rows if there are fewer (Binkowski et al. 2018).
    """
    from torch_fidelity import metric_fid, metric_kid  # here: the import takes seconds

    samples, reference = samples.double(), reference.double()
    statistics = map(metric_fid.fid_features_to_statistics, (samples, reference))
    frechet = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    kernel = metric_kid.kid_features_to_metric(
        samples,
        reference,
        kid_subsets=KERNEL_SUBSETS,
        kid_subset_size=min(KERNEL_SUBSET, len(samples), len(reference)),
        rng_seed=seed % 2**32,  # numpy takes no larger one
        verbose=False,
    )
    return {
        "frechet_distance": frechet[metric_fid.KEY_METRIC_FID],
        "kernel_distance": kernel[metric_kid.KEY_METRIC_KID_MEAN],
        "kernel_distance_std": kernel[metric_kid.KEY_METRIC_KID_STD],
    }


def manifold_scores(samples, reference):
    """Precision, recall, density and coverage of (n, d) features, all but density in 0 to 1.

    Precision: fraction of samples in balls around real images that reach to the 3rd neighbor;
    recall: the same with the roles swapped (Kynkaanniemi et al. 2019). Density: mean number of
    balls around a sample, over NEIGHBORS; coverage: fraction of balls with a sample; these reach to
    neighbor number NEIGHBORS (Naeem et al. 2020). At most MANIFOLD_IMAGES of each side are used.
    """
    from torch_fidelity import metric_prc

    samples = samples[:MANIFOLD_IMAGES].double()
    reference = reference[:MANIFOLD_IMAGES].double()
    metrics = metric_prc.prc_features_to_metric(
        samples, reference, prc_batch_size=1000, save_cpu_ram=True, verbose=False
    )
    radii = torch.cat(
        [torch.cdist(r, reference).kthvalue(NEIGHBORS + 1).values for r in reference.split(500)]
    )
    inside, covered = 0, torch.zeros(len(reference), dtype=torch.bool)
    for rows in samples.split(1000):
        within = torch.cdist(rows, reference) <= radii
        inside += within.sum().item()
        covered |= within.any(0)
    return {
        "precision": metrics[metric_prc.KEY_METRIC_PRECISION],
        "recall": metrics[metric_prc.KEY_METRIC_RECALL],
        "density": inside / (NEIGHBORS * len(samples)),
        "coverage": covered.double().mean().item(),
    }


class Judge:
    """A trained classifier that scores images by its pooled last features and its predictions."""

    def __init__(self, path, device="cpu", precision="fp32"):
        """path: exported weights of a Discriminator. Raises UserError."""
        self.path, self.precision = path, precision
        self.model, self.metadata = load_model(path, device, kind="discriminator")
        self.model.requires_grad_(False)
        self.digest = digest(self.model)

    def check_classes(self, dataset):
        """Raise UserError if the judge was trained on other classes."""
        remedy = "; train one with train_discriminator.py, or give --judge"
        check_classes(f"the judge {self.path}", self.metadata, dataset, remedy)

    def features_and_classes(self, images, title=""):
        """uint8 (n, 3, 32, 32) -> features float64 (n, width), classes int64 (n,), on the CPU."""
        features, logits = features_and_logits(self.model, images, self.precision, title)
        return features.double().cpu(), logits.argmax(1).cpu()


class TrainingScores:
    """Fast scores of a generator during its training, on the same latents every time.

    In a run of several processes only one of them computes scores.
    """

    def __init__(self, judge, dataset, seed, hold_out=0, samples=2000, reference=10_000):
        """dataset: provides the first `reference` images.

        hold_out: the number of images held out of training, also of the judge's; 0: none.
        Raises UserError.
        """
        judge.check_classes(dataset)
        if hold_out not in (0, held_out := judge.metadata.get("hold_out", 0)):
            trained = f"the judge {judge.path} was trained with --hold_out {held_out}"
            raise UserError(f"{trained}, not {hold_out}; train a judge with that value")
        if len(dataset) < MIN_SAMPLES:
            raise UserError(f"--evaluate_every needs at least {MIN_SAMPLES} real images")
        self.judge, self.seed = judge, seed
        self.class_names = dataset.class_names
        self.labels = sampling.labels_like(dataset, samples)
        self.images = dataset.images[:reference]

    @functools.cached_property
    def reference(self):
        """The judge's features of the real images."""
        return self.judge.features_and_classes(self.images)[0]

    def __call__(self, generator):
        """{"frechet_distance", "kernel_distance", "class_consistency" in %}."""
        options = {"purpose": Stream.TRAINING_SCORES, "num_classes": len(self.class_names)}
        latents = sampling.latents_of(self.labels, generator.latent_dim, self.seed, **options)
        samples = sampling.generate(generator, latents, precision=self.judge.precision)
        features, classes = self.judge.features_and_classes(samples)
        metrics = distances(features, self.reference, self.seed)
        consistency, _ = class_consistency(classes, self.labels, self.class_names)
        del metrics["kernel_distance_std"]
        return metrics | {"class_consistency": consistency}


def class_consistency(classes, labels, class_names):
    """Percentage of predictions that equal the label: of all images, and {class: percentage}.

    classes, labels: int64 (n,).
    """
    correct = 100 * (classes == labels).double()
    per_class = {
        name: round(correct[labels == index].mean().item(), 2)
        for index, name in enumerate(class_names)
        if (labels == index).any()
    }
    return round(correct.mean().item(), 2), per_class


def score_table(image_sets, reference, class_names, seed):
    """{name: scores} of image sets {name: (features, predicted classes, labels)}.

    reference: features of the training images. The scores depend on the number of images, so
    as many of each set are used as there are in the smallest.
    """
    count = min(len(reference), *(len(labels) for _, _, labels in image_sets.values()))
    table = {}
    for name, image_set in image_sets.items():
        features, classes, labels = (part[:count] for part in image_set)
        consistency, per_class = class_consistency(classes, labels, class_names)
        table[name] = distances(features, reference, seed) | manifold_scores(features, reference)
        table[name] |= {"images": len(features), "class_consistency": consistency}
        table[name]["per_class_consistency"] = per_class
    return table


def text_of(row):
    """The numbers of a set's scores on one line."""
    return ", ".join(f"{k} {v:.6g}" for k, v in row.items() if not isinstance(v, dict))
