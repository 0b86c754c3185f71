"""How close samples are to real images, in the features of a network: the judge.

Distances and precision/recall are torch-fidelity's; density, coverage and the search for nearest
neighbours, which it lacks, stand here.
"""

import torch
import torch_fidelity
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from data_tools import to_signed
from discriminator import NUM_LAYERS
from engine.device import autocast
from engine.progress import Progress
from engine.weights import CheckpointError, check_classes, digest, load_model
from metrics import sampling

KERNEL_SUBSET = 1000  # samples of each side in one estimate of the kernel distance
KERNEL_SUBSETS = 100
MIN_SAMPLES = 20  # of either side: a few more than the neighbours that are looked at
FEW_SAMPLES = KERNEL_SUBSET  # of fewer, distances are far too large, and alike only among equals
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


class ScoreError(Exception):
    """The scores asked for cannot be computed from what was given; the message says why."""


class _GivenFeatures(FeatureExtractorBase):
    """torch-fidelity's view of features that were computed before."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(_metric):
        return "features"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, features):
        return (features,)


torch_fidelity.register_feature_extractor("given-features", _GivenFeatures)


class Rows(torch.utils.data.Dataset):
    """A tensor's rows, as torch-fidelity takes them."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def fidelity(samples, reference, seed, **wanted):
    """torch-fidelity's metrics of features that are there, (n, d) and (m, d), in float64."""
    return torch_fidelity.calculate_metrics(
        input1=Rows(samples.double()),
        input2=Rows(reference.double()),
        **wanted,
        feature_extractor="given-features",
        kid_subsets=KERNEL_SUBSETS,
        kid_subset_size=min(KERNEL_SUBSET, len(samples), len(reference)),
        prc_batch_size=1000,
        batch_size=1000,
        save_cpu_ram=True,  # no worker processes, and distances in blocks
        cuda=False,
        cache=False,
        verbose=False,
        rng_seed=seed % 2**32,  # numpy takes no larger one
    )


def distances(samples, reference, seed=0):
    """Frechet and kernel distance of two sets of features, (n, d) and (m, d), in float64.

    Frechet: between the normal distributions of the same means and covariances (Heusel et al.
    2017), in squared units of the features. Kernel: squared MMD with the kernel (x.y / d + 1)^3,
    unbiased, mean and standard deviation over 100 draws of 1000 of each, or of all that there are
    (Binkowski et al. 2018); a side of no more rows than that is the same in every draw and adds
    nothing to the deviation. Of fewer rows than FEW_SAMPLES both say little: the Frechet distance
    grows as the rows get fewer.
    Raises ScoreError where a side has fewer than MIN_SAMPLES rows.
    """
    if min(len(samples), len(reference)) < MIN_SAMPLES:
        raise ScoreError(
            f"{min(len(samples), len(reference))} images are too few for these statistics; "
            f"at least {MIN_SAMPLES} of each side"
        )
    metrics = fidelity(samples, reference, seed, fid=True, kid=True)
    return {
        "frechet_distance": metrics[torch_fidelity.KEY_METRIC_FID],
        "kernel_distance": metrics[torch_fidelity.KEY_METRIC_KID_MEAN],
        "kernel_distance_std": metrics[torch_fidelity.KEY_METRIC_KID_STD],
    }


def manifold_scores(samples, reference, neighbours=5):
    """Precision, recall, density and coverage of (n, d) features, all but density in 0 to 1.

    Precision: share of samples within the distance of some real image to its 3rd nearest neighbour;
    recall: the same with the roles changed (Kynkaanniemi et al. 2019). Density: how many such balls
    a sample lies in, over `neighbours`; coverage: share of real images with a sample in their ball,
    its radius now to the 5th neighbour (Naeem et al. 2020). At most MANIFOLD_IMAGES of each side.
    """
    samples, reference = samples[:MANIFOLD_IMAGES], reference[:MANIFOLD_IMAGES]
    metrics = fidelity(samples, reference, 0, prc=True)
    radii = nearest(reference, reference, neighbours + 1)[0][:, -1]
    inside, covered = 0, torch.zeros(len(reference), dtype=torch.bool)
    for rows in samples.double().split(1000):
        within = torch.cdist(rows, reference.double()) <= radii
        inside += within.sum().item()
        covered |= within.any(0)
    return {
        "precision": metrics[torch_fidelity.KEY_METRIC_PRECISION],
        "recall": metrics[torch_fidelity.KEY_METRIC_RECALL],
        "density": inside / (neighbours * len(samples)),
        "coverage": covered.double().mean().item(),
    }


def nearest(queries, pool, count=1, chunk=500):
    """Euclidean distances to the `count` nearest rows of the pool, and their indices.

    queries (n, d), pool (m, d) -> float64 (n, count) ascending, int64 (n, count).
    """
    pool = pool.double()
    parts = [
        torch.cdist(rows.double(), pool).topk(count, largest=False) for rows in queries.split(chunk)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


class Judge:
    """A trained classifier that scores images: its pooled last features and its class decisions."""

    def __init__(self, path, device="cpu", precision="fp32"):
        """path: exported weights of a Discriminator. Raises CheckpointError."""
        self.path, self.precision, self.device = path, precision, torch.device(device)
        self.model, self.metadata = load_model(path, device, kind="discriminator")
        self.model.requires_grad_(False)
        self.digest = digest(self.model)

    def check_set(self, dataset):
        """Raises CheckpointError where the judge knows other classes, or tells nothing of them."""
        try:
            if not self.metadata.keys() & {"dataset", "class_names"}:
                raise CheckpointError(f"the judge {self.path} does not tell what it was trained on")
            check_classes(f"the judge {self.path}", self.metadata, dataset)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; train one with train_discriminator.py, or give --judge"
            ) from None

    @torch.no_grad()
    def features_and_classes(self, images, batch_size=500, title=""):
        """uint8 (n, 3, 32, 32) -> features float64 (n, width), classes int64 (n,), on the CPU.

        With a title there is a progress bar.
        """
        progress = Progress(title, -(-len(images) // batch_size), batch_size) if title else None
        features, classes = [], []
        for batch in images.split(batch_size):
            with autocast(self.device, self.precision):
                batch = to_signed(batch.to(self.device))
                pooled = self.model.pool(self.model.features(batch, NUM_LAYERS))
                logits = self.model.class_head(pooled)
            features.append(pooled.double().cpu())
            classes.append(logits.argmax(1).cpu())
            if progress is not None:
                progress.step()
        if progress is not None:
            progress.close()
        return torch.cat(features), torch.cat(classes)


class TrainingScores:
    """The scores of a generator that are cheap enough for use during its training.

    They are taken on the same latents every time. In a run of several processes one of them is
    enough to hold this: nothing here waits for another process.
    """

    def __init__(self, judge, dataset, seed, samples=2000, reference=10_000):
        """dataset: the training set, of which the first `reference` images are compared with.

        Raises CheckpointError for a judge of another set, ScoreError where it has too few images.
        """
        judge.check_set(dataset)
        self.judge, self.seed = judge, seed
        self.class_names = dataset.class_names
        self.labels = sampling.sample_labels(samples, range(len(dataset.class_names)))
        self.reference, _ = judge.features_and_classes(dataset.images[:reference])
        if len(self.reference) < MIN_SAMPLES:
            raise ScoreError(f"{len(self.reference)} training images are too few for the scores")

    def __call__(self, generator):
        """{"frechet_distance", "kernel_distance", "class_consistency" in %}."""
        latents = sampling.latents_of(
            self.labels,
            generator.latent_dim,
            self.seed,
            sampling.TRAINING_SCORES,
            num_classes=len(self.class_names),
        )
        samples = sampling.draw(generator, latents, precision=self.judge.precision)
        features, classes = self.judge.features_and_classes(samples)
        metrics = distances(features, self.reference, self.seed)
        consistency, _ = class_consistency(classes, self.labels, self.class_names)
        return {
            "frechet_distance": metrics["frechet_distance"],
            "kernel_distance": metrics["kernel_distance"],
            "class_consistency": consistency,
        }


def class_consistency(classes, labels, class_names):
    """Share of images that the judge gives the label's class, in %: of all, and {class: share}.

    classes, labels: int64 (n,).
    """
    right = (classes == labels).double()
    per_class = {}
    for index, name in enumerate(class_names):
        if (labels == index).any():
            per_class[name] = round(100 * right[labels == index].mean().item(), 2)
    return round(100 * right.mean().item(), 2), per_class


def score_table(judged, reference, class_names, seed):
    """{name of the set: its scores} for {name: (features, classes, labels)}.

    reference: the training images' features. Every set needs the same number of images: what is
    estimated depends on it.
    """
    table = {}
    for name, (features, classes, labels) in judged.items():
        consistency, per_class = class_consistency(classes, labels, class_names)
        table[name] = {
            **distances(features, reference, seed),
            **manifold_scores(features, reference),
            "images": len(features),
            "class_consistency": consistency,
            "per_class_consistency": per_class,
        }
    return table


def print_table(table):
    """One row of COLUMNS for each set of a score_table."""
    width = max(map(len, table)) + 2
    headings = "".join(f"{heading:>11}" for heading, _ in COLUMNS.values())
    print(f"{'':<{width}}{'images':>8}{headings}")
    for name, scores in table.items():
        cells = "".join(
            f"{format(scores[field], form):>11}" for field, (_, form) in COLUMNS.items()
        )
        print(f"{name:<{width}}{scores['images']:>8}{cells}")
