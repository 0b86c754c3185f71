"""Figures of adversarial attacks: one signed step toward the next class, and a study of robustness.

The pictures show the assignment's step. The study raises epsilon from 0.5/255 to 16/255, for one
step and for projected gradient descent, with noise of the same size beside it. What an attack
leaves right is an upper bound on the robust accuracy: a stronger attack may fool more.
"""

import torch

from data_tools import to_uint8
from inside_cnn.core.progress import with_progress
from inside_cnn.engine.plots import save_charts, save_image_grid, shortened
from inside_cnn.engine.statistics import paired_differences, percent, percent_interval
from inside_cnn.interpretability.adversarial import (
    BUDGET,
    RESTARTS,
    STEPS,
    TARGETS,
    loss_gradient,
    predict,
    signed_step,
    smallest_flip,
    study,
)
from inside_cnn.interpretability.network import line_styles

ROWS_SHOWN = 5  # images of each class in the perturbation grids
EPSILONS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]  # of the study, in levels of 0 to 255
FULL_EPSILON = 4.0  # where it runs the full attack
ATTACK = f"{STEPS} steps; at {FULL_EPSILON:g}/255 with {RESTARTS} starts and {TARGETS} targets"


def verdicts(probabilities, names):
    """The predicted class and its probability, as text, for each row."""
    confidence, index = probabilities.max(1)
    pairs = zip(index.tolist(), confidence.tolist(), strict=True)
    return [f"{shortened(names[k])} {100 * c:.0f} %" for k, c in pairs]


def one_step(network, test_set, epsilon, folder, suffix="", batch_size=250):
    """Move every test image by one step, count again, and plot the first few of each class.

    Leaves real_images, gradient_image and jittered_images in `folder`; returns the metrics.
    """
    images, labels, names = test_set.images, test_set.labels, test_set.class_names
    targets = (labels + 1) % len(names)
    changed, gradients, before, after = [], [], [], []
    batches = list(zip(images.split(batch_size), targets.split(batch_size), strict=True))
    for batch, classes in with_progress(batches, f"perturb, {network.name}", batch_size):
        gradient, logits = loss_gradient(network, batch.float(), classes)
        moved = signed_step(batch, gradient, epsilon, targeted=True)
        before.append(logits.softmax(1))
        after.append(predict(network, moved).softmax(1))
        changed.append(moved.round().byte())
        gradients.append(gradient)
    changed, gradients, before, after = map(torch.cat, (changed, gradients, before, after))

    metrics = {
        "epsilon": f"{epsilon:g}/255",
        "images": len(labels),
        "accuracy_before": percent(before.argmax(1) == labels),
        "accuracy_after": percent(after.argmax(1) == labels),
        "became_alternate_label": percent(after.argmax(1) == targets),
    }
    print(
        f"{network.name}: accuracy on {len(labels)} images {metrics['accuracy_before']:.2f} % -> "
        f"{metrics['accuracy_after']:.2f} % after {metrics['epsilon']}; "
        f"{metrics['became_alternate_label']:.2f} % became the alternate label"
    )

    shown, columns, some = test_set.columns(ROWS_SHOWN)
    first, last = verdicts(before[shown], names), verdicts(after[shown], names)
    strength = gradients[shown].abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    verdict_pairs = [f"{b}\n→ {a}" for b, a in zip(first, last, strict=True)]
    files = {
        "real_images": (images[shown], first, "Test images and predictions"),
        "gradient_image": (
            to_uint8(gradients[shown] / strength),
            verdict_pairs,
            "Gradient toward the next class, each scaled to its largest entry",
        ),
        "jittered_images": (
            changed[shown],
            verdict_pairs,
            f"Perturbed by {metrics['epsilon']}: prediction before → after",
        ),
    }
    for file, (grid, captions, title) in files.items():
        path = folder / f"{file}{suffix}.png"
        title = f"{title}; columns by true class{some} ({network.title})"
        save_image_grid(grid, path, columns, title, captions, scale=4)
        print(f"  {path}")
    return metrics


def strength_section(networks, test_set, folder, batch_size=250):
    """How each attack at each epsilon changes the predictions, and what networks differ in.

    Leaves robustness.png, attack_convergence.png and of each network perturbed_..._epsilon....png
    and smallest_epsilon_....png in `folder`; returns {name of the network: metrics}, percentages
    in the order of EPSILONS, intervals of 95 %.
    """
    metrics_of, right_of = {}, {}
    for network in networks:
        metrics_of[network.name], right_of[network.name] = _strength_study(
            network, test_set, folder, batch_size
        )
    differences = paired_differences(right_of)
    for name, metrics in metrics_of.items():
        metrics["differences"] = differences[name]
    _draw_strength_study(metrics_of, folder / "robustness.png")
    _draw_convergence(metrics_of, folder / "attack_convergence.png")
    return metrics_of


def _strength_study(network, test_set, folder, batch_size):
    """(metrics, {attack: bool (n,), which images are right}) of those that networks differ in."""
    images, labels, names = test_set.images, test_set.labels, test_set.class_names
    targets = (labels + 1) % len(names)
    options = {"batch_size": batch_size, "title": f"attacks, {network.name}"}
    found = study(network, images, labels, EPSILONS, FULL_EPSILON, **options)
    exact, batches = network.at("fp32"), images.split(batch_size)
    clean = torch.cat([predict(exact, batch.float()) for batch in batches]).argmax(1)
    right = clean == labels
    withstood, full = found.evaluations.isinf(), EPSILONS.index(FULL_EPSILON)
    gradients = list(range(0, BUDGET + 1, 10))
    metrics = {
        "images": len(labels),
        "epsilons": EPSILONS,
        "precision_of_gradients": network.precision,
        "pgd": ATTACK,
        "accuracy_clean": percent(right),
        "interval_clean": percent_interval(right),
        "predicted_next_class_clean": percent(clean == targets),
        "full_attack": {
            "epsilon": f"{FULL_EPSILON:g}/255",
            "accuracy": percent(withstood),
            "interval": percent_interval(withstood),
            "gradients_per_image": gradients,
            "accuracy_after": [percent(found.evaluations > count) for count in gradients],
        },
    }
    for attack, rows in found.predicted.items():
        metrics[f"{attack}_accuracy"] = [percent(row == labels) for row in rows]
        metrics[f"{attack}_interval"] = [percent_interval(row == labels) for row in rows]
        metrics[f"{attack}_predicted_next_class"] = [percent(row == targets) for row in rows]
    smallest = smallest_flip(found.predicted["pgd"] == labels, EPSILONS)
    smallest = torch.where(right.cpu(), smallest, 0.0)
    print(f"{network.name}, the first {len(labels)} test images, {percent(right):.2f} % right:")
    for index, epsilon in enumerate(EPSILONS):
        accuracies = ", ".join(
            f"{attack} {metrics[f'{attack}_accuracy'][index]:.1f} ({low:.1f} to {high:.1f})"
            for attack in ("noise", "step", "pgd")
            for low, high in [metrics[f"{attack}_interval"][index]]
        )
        note = ", the full attack" if index == full else ""
        print(f"  {epsilon:>4g}/255: accuracy in % under {accuracies}{note}")

    shown, columns, some = test_set.columns(1)
    for epsilon, levels in zip((0.0, *EPSILONS), (images.float(), *found.levels), strict=True):
        # The prediction is that of what is drawn: whole levels.
        levels = levels[shown].round()
        path = folder / f"perturbed_{network.slug}_epsilon{epsilon:g}.png"
        title = (
            f"Projected gradient descent, up to {epsilon:g}/255, rounded to whole levels, "
            f"{network.title}{some}"
        )
        captions = verdicts(predict(exact, levels).softmax(1), names)
        save_image_grid(levels.byte(), path, columns, title, captions, scale=4)

    rows = test_set.columns(ROWS_SHOWN)[0].cpu()
    captions = [_in_words(epsilon) for epsilon in smallest[rows].tolist()]
    path = folder / f"smallest_epsilon_{network.slug}.png"
    title = (
        f"The first epsilon of {', '.join(f'{e:g}' for e in EPSILONS)}/255 at which projected "
        f"gradient descent fools the network, {network.title}{some}"
    )
    save_image_grid(images[rows.to(images.device)], path, columns, title, captions, scale=4)
    print(f"  {path}")
    noise = found.predicted["noise"][EPSILONS.index(8.0)] == labels
    return metrics, {"full attack at 4/255": withstood, "noise at 8/255": noise}


def _in_words(epsilon):
    if epsilon == 0:
        return "wrong already"
    return "withstands" if epsilon == float("inf") else f"{epsilon:g}/255"


# Title: what it counts on the images as they are, and at each epsilon.
_CHARTS = {
    "random noise: accuracy": ("accuracy_clean", "noise_accuracy"),
    "one signed step: accuracy": ("accuracy_clean", "step_accuracy"),
    "PGD: upper bound on the robust accuracy": ("accuracy_clean", "pgd_accuracy"),
    "random noise: the next class is predicted": (
        "predicted_next_class_clean",
        "noise_predicted_next_class",
    ),
    "one signed step toward the next class": (
        "predicted_next_class_clean",
        "step_targeted_predicted_next_class",
    ),
}


def _draw_strength_study(metrics_of, path):
    """A chart for each attack and aim. metrics_of: {name of the network: metrics}, a line each."""
    images = next(iter(metrics_of.values()))["images"]
    styles = line_styles(metrics_of)
    charts = {}
    for title, (clean, field) in _CHARTS.items():
        lines = {
            name: ([0.0, *metrics["epsilons"]], [metrics[clean], *metrics[field]], styles[name])
            for name, metrics in metrics_of.items()
        }
        x, y = "epsilon, the largest change of a pixel, / 255", f"% of {images} test images"
        charts[title] = {"x": x, "y": y, "height": 100, "lines": lines}
    save_charts(charts, path, columns=3)
    print(f"  {path}")


def _draw_convergence(metrics_of, path):
    """What the full attack leaves right after so many gradients: flat where it has converged."""
    images = next(iter(metrics_of.values()))["images"]
    lines = {}
    for name, style in line_styles(metrics_of).items():
        full = metrics_of[name]["full_attack"]
        style = style | {"marker": None}
        lines[name] = (full["gradients_per_image"], full["accuracy_after"], style)
    x, y = "gradient evaluations for each image", f"% of {images} test images"
    title = f"Upper bound on the robust accuracy at {FULL_EPSILON:g}/255"
    save_charts({title: {"x": x, "y": y, "height": 100, "lines": lines}}, path)
    print(f"  {path}")
