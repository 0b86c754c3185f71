"""How close samples are to real images, in the features of a network: the judge.

Distances and precision/recall are torch-fidelity's; density and coverage, which it lacks, are here.
"""

import torch
from torch_fidelity import metric_fid, metric_kid, metric_prc

from data_tools import to_signed
from discriminator import NUM_LAYERS
from inside_cnn.core.device import Stream, autocast
from inside_cnn.core.errors import UserError
from inside_cnn.core.progress import with_progress
from inside_cnn.engine.weights import check_classes, digest, load_model
from inside_cnn.metrics import sampling

KERNEL_SUBSET = 1000  # samples of each side in one estimate of the kernel distance
KERNEL_SUBSETS = 100
MIN_SAMPLES = 20  # of either side: a few more than the neighbors that are compared
FEW_SAMPLES = KERNEL_SUBSET  # below, distances are far too large, and depend on the number
MANIFOLD_IMAGES = 10_000  # of each side, at most, for precision, recall, density and coverage
COLUMNS = {  # of the table: field, heading, format
    "frechet_distance": ("Frechet", ".3f"),
    "kernel_distance": ("kernel", ".5f"),
    "kernel_distance_std": ("+-", ".5f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "density": ("density", ".3f"),
    "coverage": ("coverage", ".3f"),
    "class_consistency": ("class %", ".2f"),
}


def distances(samples, reference, seed=0):
    """Frechet and kernel distance of two sets of features, (n, d) and (m, d), in float64.

    Frechet: between the normal distributions of the same means and covariances (Heusel et al.
    2017), in squared units of the features. Kernel: squared MMD with the kernel (x.y / d + 1)^3,
    unbiased, mean and standard deviation over 100 random subsets of 1000 of each side, or of all if
    there are fewer (Binkowski et al. 2018). Below FEW_SAMPLES rows both say little: the Frechet
    distance grows as the number of rows falls.
    Raises UserError if a side has fewer than MIN_SAMPLES rows.
    """
    fewest = min(len(samples), len(reference))
    if fewest < MIN_SAMPLES:
        message = f"{fewest} images are too few for these statistics; at least {MIN_SAMPLES}"
        raise UserError(f"{message} of each side")
    samples, reference = samples.double(), reference.double()
    statistics = map(metric_fid.fid_features_to_statistics, (samples, reference))
    frechet = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    kernel = metric_kid.kid_features_to_metric(
        samples,
        reference,
        kid_subsets=KERNEL_SUBSETS,
        kid_subset_size=min(KERNEL_SUBSET, fewest),
        rng_seed=seed % 2**32,  # numpy takes no larger one
        verbose=False,
    )
    return {
        "frechet_distance": frechet[metric_fid.KEY_METRIC_FID],
        "kernel_distance": kernel[metric_kid.KEY_METRIC_KID_MEAN],
        "kernel_distance_std": kernel[metric_kid.KEY_METRIC_KID_STD],
    }


def manifold_scores(samples, reference, neighbors=5):
    """Precision, recall, density and coverage of (n, d) features, all but density in 0 to 1.

    Precision: share of samples within the distance of some real image to its 3rd nearest neighbor;
    recall: the same with the roles changed (Kynkaanniemi et al. 2019). Density: how many such balls
    a sample lies in, over `neighbors`; coverage: share of real images with a sample in their ball,
    its radius now to the 5th neighbor (Naeem et al. 2020). At most MANIFOLD_IMAGES of each side.
    """
    samples = samples[:MANIFOLD_IMAGES].double()
    reference = reference[:MANIFOLD_IMAGES].double()
    metrics = metric_prc.prc_features_to_metric(
        samples, reference, prc_batch_size=1000, save_cpu_ram=True, verbose=False
    )
    radii = torch.cat(
        [torch.cdist(r, reference).kthvalue(neighbors + 1).values for r in reference.split(500)]
    )
    inside, covered = 0, torch.zeros(len(reference), dtype=torch.bool)
    for rows in samples.split(1000):
        within = torch.cdist(rows, reference) <= radii
        inside += within.sum().item()
        covered |= within.any(0)
    return {
        "precision": metrics[metric_prc.KEY_METRIC_PRECISION],
        "recall": metrics[metric_prc.KEY_METRIC_RECALL],
        "density": inside / (neighbors * len(samples)),
        "coverage": covered.double().mean().item(),
    }


class Judge:
    """A trained classifier that scores images: its pooled last features and its class decisions."""

    def __init__(self, path, device="cpu", precision="fp32"):
        """path: exported weights of a Discriminator. Raises UserError."""
        self.path, self.precision, self.device = path, precision, torch.device(device)
        self.model, self.metadata = load_model(path, device, kind="discriminator")
        self.model.requires_grad_(False)
        self.digest = digest(self.model)

    def check_set(self, dataset):
        """Raises UserError if the judge knows other classes, or does not say which."""
        name, remedy = f"the judge {self.path}", "train one with train_discriminator.py"
        if not self.metadata.keys() & {"dataset", "class_names"}:
            raise UserError(f"{name} does not say what it was trained on; {remedy}")
        check_classes(name, self.metadata, dataset, f"; {remedy}, or give --judge")

    @torch.no_grad()
    def features_and_classes(self, images, batch_size=500, title=""):
        """uint8 (n, 3, 32, 32) -> features float64 (n, width), classes int64 (n,), on the CPU."""
        features, classes = [], []
        for batch in with_progress(images.split(batch_size), title, batch_size):
            with autocast(self.device, self.precision):
                batch = to_signed(batch.to(self.device))
                maps = self.model.features(batch, NUM_LAYERS)
                pooled, (_, logits) = self.model.pool(maps), self.model.head(maps)
            features.append(pooled.double().cpu())
            classes.append(logits.argmax(1).cpu())
        return torch.cat(features), torch.cat(classes)


class TrainingScores:
    """Cheap scores of a generator during its training, on the same latents every time.

    In a run of several processes one of them holds this: nothing here waits for another process.
    """

    def __init__(self, judge, dataset, seed, samples=2000, reference=10_000):
        """dataset: its first `reference` images are what samples are compared with.

        Raises UserError for a judge of another set, and for too few images.
        """
        judge.check_set(dataset)
        self.judge, self.seed = judge, seed
        self.class_names = dataset.class_names
        self.labels = sampling.sample_labels(samples, range(len(dataset.class_names)))
        self.reference, _ = judge.features_and_classes(dataset.images[:reference])
        if len(self.reference) < MIN_SAMPLES:
            raise UserError(f"{len(self.reference)} training images are too few for the scores")

    def __call__(self, generator):
        """{"frechet_distance", "kernel_distance", "class_consistency" in %}."""
        sizes, count = (self.labels, generator.latent_dim, self.seed), len(self.class_names)
        latents = sampling.latents_of(*sizes, Stream.TRAINING_SCORES, num_classes=count)
        samples = sampling.draw(generator, latents, precision=self.judge.precision)
        features, classes = self.judge.features_and_classes(samples)
        metrics = distances(features, self.reference, self.seed)
        consistency, _ = class_consistency(classes, self.labels, self.class_names)
        del metrics["kernel_distance_std"]
        return metrics | {"class_consistency": consistency}


def class_consistency(classes, labels, class_names):
    """Share of images that the judge gives the label's class, in %: of all, and {class: share}.

    classes, labels: int64 (n,).
    """
    right = 100 * (classes == labels).double()
    per_class = {
        name: round(right[labels == index].mean().item(), 2)
        for index, name in enumerate(class_names)
        if (labels == index).any()
    }
    return round(right.mean().item(), 2), per_class


def score_table(judged, reference, class_names, seed):
    """{name of the set: its scores} for {name: (features, classes, labels)}.

    reference: the training images' features. Every set needs the same number of images: the
    estimates depend on it.
    """
    table = {}
    for name, (features, classes, labels) in judged.items():
        consistency, per_class = class_consistency(classes, labels, class_names)
        table[name] = distances(features, reference, seed) | manifold_scores(features, reference)
        table[name] |= {"images": len(features), "class_consistency": consistency}
        table[name]["per_class_consistency"] = per_class
    return table


def print_table(table):
    """One row of COLUMNS for each set of a score_table."""
    width = max(map(len, table)) + 2
    headings = "".join(f"{heading:>11}" for heading, _ in COLUMNS.values())
    print(f"{'':<{width}}{'images':>8}{headings}")
    for name, row in table.items():
        cells = "".join(f"{row[field]:>11{form}}" for field, (_, form) in COLUMNS.items())
        print(f"{name:<{width}}{row['images']:>8}{cells}")
