"""Adversarial perturbations: one signed step toward the next class, and a study of what withstands.

The pictures show the assignment's step. The study turns the strength up, from half a level in 255
to 16, for one step and for projected gradient descent, with noise of the same size beside it.
"""

import torch

import runtime
from attacks import logits_of, smallest_flip, study
from data_tools import to_signed, to_uint8
from figures import save_charts, save_image_grid
from image_gradients import perturb
from progress import Progress

ROWS_SHOWN = 5  # images of each class in the perturbation grids
EPSILONS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]  # of the study, in levels of 0 to 255


def percent(right):
    return round(100 * right.double().mean().item(), 2)


def one_of_each_class(labels, rows, classes=10):
    """Indices of the first `rows` images of each class, row by row, a class in each column."""
    first = [torch.nonzero(labels == k).flatten()[:rows] for k in range(classes)]
    rows = min(len(indices) for indices in first)
    return torch.stack([indices[:rows] for indices in first], dim=1).flatten()


def verdicts(probabilities, names):
    """The class named most likely and its probability, in words, for each row."""
    confidence, index = probabilities.max(1)
    pairs = zip(index.tolist(), confidence.tolist(), strict=True)
    return [f"{names[k]} {100 * c:.0f} %" for k, c in pairs]


def one_step(network, test_set, epsilon, precision, folder, suffix="", batch_size=250):
    """Perturb every test image, count again, and draw the first few of each class.

    Leaves real_images, gradient_image and jittered_images in `folder`; returns the figures.
    """
    model, name = network.model, network.name
    images, labels, names = test_set.images, test_set.labels, test_set.class_names
    changed, gradients, before, after = [], [], [], []
    progress = Progress(f"perturb, {name}", -(-len(labels) // batch_size), batch_size)
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    for batch, batch_labels in batches:
        batch = to_signed(batch)
        perturbed, gradient = perturb(model, batch, batch_labels, epsilon, precision)
        with torch.no_grad(), runtime.autocast(batch.device, precision):
            before.append(model(batch)[1].float().softmax(1))
            after.append(model(perturbed)[1].float().softmax(1))
        changed.append(to_uint8(perturbed))
        gradients.append(gradient)
        progress.step()
    progress.close()
    changed, gradients, before, after = map(torch.cat, (changed, gradients, before, after))

    figures = {
        "epsilon": f"{epsilon:g}/255",
        "images": len(labels),
        "accuracy_before": percent(before.argmax(1) == labels),
        "accuracy_after": percent(after.argmax(1) == labels),
        "became_alternate_label": percent(after.argmax(1) == (labels + 1) % len(names)),
    }
    print(
        f"{name}: accuracy on {len(labels)} images {figures['accuracy_before']:.2f} % -> "
        f"{figures['accuracy_after']:.2f} % after {figures['epsilon']}; "
        f"{figures['became_alternate_label']:.2f} % became the alternate label"
    )

    shown = one_of_each_class(labels, ROWS_SHOWN, len(names))
    first, last = verdicts(before[shown], names), verdicts(after[shown], names)
    strength = gradients[shown].abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    moved = [f"{b}\n→ {a}" for b, a in zip(first, last, strict=True)]
    files = {
        "real_images": (images[shown], first, "Test images and predictions"),
        "gradient_image": (
            to_uint8(gradients[shown] / strength),
            moved,
            "Gradient toward the next class, each scaled to its largest entry",
        ),
        "jittered_images": (
            changed[shown],
            moved,
            f"Perturbed by {figures['epsilon']}: prediction before → after",
        ),
    }
    for file, (grid, captions, title) in files.items():
        path = folder / f"{file}{suffix}.png"
        title = f"{title}; columns by true class ({name})"
        save_image_grid(grid, path, names, title, captions, scale=4)
        print(f"  {path}")
    return figures


def strength_study(network, test_set, precision, folder, seed=0):
    """Accuracy against epsilon under each attack, and the first images of each class, flipped.

    Leaves perturbed_..._epsilon....png and smallest_epsilon_....png in `folder`; returns the
    figures.
    """
    images, labels, names = test_set.images, test_set.labels, test_set.class_names
    progress = Progress(f"attacks, {network.name}", len(EPSILONS), len(labels))
    withstood, found = study(
        *(network.model, images, labels, EPSILONS, len(names), seed, precision, progress)
    )
    progress.close()
    clean = percent(logits_of(network.model, images.float(), precision).argmax(1) == labels)
    figures = {"images": len(labels), "epsilons": EPSILONS, "accuracy_clean": clean}
    for attack, rows in withstood.items():
        if attack.endswith("_targeted"):
            figures[f"{attack}_success"] = [round(100 - percent(row), 2) for row in rows]
        else:
            figures[f"{attack}_accuracy"] = [percent(row) for row in rows]
    smallest = smallest_flip(withstood["pgd"], EPSILONS)
    right = logits_of(network.model, images.float(), precision).argmax(1) == labels
    smallest = torch.where(right.cpu(), smallest, 0.0)
    flipped = smallest[right.cpu()]
    figures["median_smallest_epsilon"] = flipped.median().item() if len(flipped) else None
    print(f"{network.name}, the first {len(labels)} test images, {clean:.2f} % right:")
    for index, epsilon in enumerate(EPSILONS):
        accuracies = ", ".join(
            f"{attack} {figures[f'{attack}_accuracy'][index]:.1f}" for attack in _UNTARGETED
        )
        print(f"  {epsilon:>4g}/255: accuracy in % under {accuracies}")

    shown = one_of_each_class(labels, 1, len(names))
    for epsilon in (0.0, *EPSILONS):
        levels = images[shown].float() if epsilon == 0 else found[epsilon][shown]
        probabilities = logits_of(network.model, levels, precision).softmax(1)
        path = folder / f"perturbed_{network.slug}_epsilon{epsilon:g}.png"
        captions = verdicts(probabilities, names)
        title = f"Projected gradient descent, up to {epsilon:g}/255, trained {network.name}"
        save_image_grid(levels.round().byte(), path, names, title, captions, scale=4)

    rows = one_of_each_class(labels, ROWS_SHOWN, len(names)).cpu()
    captions = [_in_words(epsilon) for epsilon in smallest[rows].tolist()]
    path = folder / f"smallest_epsilon_{network.slug}.png"
    title = f"The smallest of the tried perturbations that flips each image, trained {network.name}"
    save_image_grid(images[rows.to(images.device)], path, names, title, captions, scale=4)
    print(f"  {path}")
    return figures


_UNTARGETED = ("noise", "step", "pgd")


def _in_words(epsilon):
    if epsilon == 0:
        return "wrong already"
    return "withstands" if epsilon == float("inf") else f"{epsilon:g}/255"


_STYLES = {
    "noise": ("random noise", {"linestyle": ":"}),
    "step": ("one signed step", {"linestyle": "--"}),
    "pgd": ("20 steps (PGD)", {"linestyle": "-"}),
}


def draw_strength_study(found, path):
    """The curves of all networks in one figure. found: {name of the network: figures}."""
    accuracy, success = {}, {}
    for number, (name, figures) in enumerate(found.items()):
        colour = {"color": f"C{number}", "marker": "o", "markersize": 3}
        xs = [0.0, *figures["epsilons"]]
        for attack, (words, style) in _STYLES.items():
            ys = [figures["accuracy_clean"], *figures[f"{attack}_accuracy"]]
            accuracy[f"{name}: {words}"] = (xs, ys, colour | style)
            if attack != "noise":
                ys = figures[f"{attack}_targeted_success"]
                success[f"{name}: {words}"] = (figures["epsilons"], ys, colour | style)
    epsilon = "largest change of a pixel, levels of 255"
    save_charts(
        {
            "away from the label": {"x": epsilon, "y": "accuracy, %", "lines": accuracy},
            "toward the next class": {
                "x": epsilon,
                "y": "named the next class, %",
                "lines": success,
            },
        },
        path,
    )
    print(f"  {path}")
