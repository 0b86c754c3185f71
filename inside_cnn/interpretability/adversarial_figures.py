"""Figures of adversarial attacks: one signed step toward the next class, and a study of robustness.

The study raises epsilon from 0.5/255 to 16/255, for one step and for projected gradient descent,
with noise of the same size as the baseline. The accuracy under an attack is an upper bound on the
robust accuracy: a stronger attack may fool more.
"""

import torch

from data_tools import to_uint8
from inside_cnn.engine.plots import save_charts, save_image_grid, shortened
from inside_cnn.engine.statistics import paired_differences, percent, percent_interval
from inside_cnn.interpretability import adversarial
from inside_cnn.interpretability.adversarial import predict
from inside_cnn.interpretability.network import line_styles

ROWS_SHOWN = 5  # images of each class in the perturbation grids
EPSILONS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]  # of the study, in levels of 0 to 255
FULL_EPSILON = 4.0  # at which it runs the full attack
CHARTS = {  # attack: title
    "noise": "random noise",
    "step": "one signed step",
    "pgd": "PGD, full attack at 4/255: upper bound",
}


def prediction_captions(probabilities, names):
    """The predicted class and its probability, as text, for each row of (b, classes)."""
    confidence, index = probabilities.max(1)
    pairs = zip(index.tolist(), confidence.tolist(), strict=True)
    return [f"{shortened(names[k])} {100 * c:.0f} %" for k, c in pairs]


def _steps(network, images, targets, epsilon, title=""):
    """One step toward the targets: the changed images (uint8), gradients, and probabilities before
    and after the step, for each batch."""
    for batch, classes in adversarial.labeled_batches(images, targets, title):
        gradient, logits = adversarial.loss_gradient(network, batch.float(), classes)
        moved = adversarial.signed_step(batch, gradient, epsilon, targeted=True)
        after = predict(network, moved).softmax(1)
        yield moved.round().byte(), gradient, logits.softmax(1), after


def one_step(network, test_set, epsilon, folder, suffix=""):
    """Perturb every test image by one step toward the next class; plot the first of each class.

    Writes real_images, gradient_image and jittered_images to `folder`; returns the metrics.
    """
    images, labels, names = test_set.images, test_set.labels, test_set.class_names
    targets = (labels + 1) % len(names)
    steps = _steps(network, images, targets, epsilon, f"perturb, {network.name}")
    # All images and gradients may not fit into memory.
    before, after = map(torch.cat, zip(*(part[2:] for part in steps), strict=True))

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

    rows, columns, note = test_set.columns(ROWS_SHOWN)
    steps = _steps(network, images[rows], targets[rows], epsilon)
    changed, gradients, *probabilities = map(torch.cat, zip(*steps, strict=True))
    first, last = (prediction_captions(part, names) for part in probabilities)
    both = [f"{b}\n→ {a}" for b, a in zip(first, last, strict=True)]
    largest = gradients.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    gradient_title = "Gradient toward the next class, each scaled to its largest entry"
    perturbed_title = f"Perturbed by {metrics['epsilon']}: prediction before → after"
    for file, grid, captions, title in (
        ("real_images", images[rows], first, "Test images and predictions"),
        ("gradient_image", to_uint8(gradients / largest), both, gradient_title),
        ("jittered_images", changed, both, perturbed_title),
    ):
        path = folder / f"{file}{suffix}.png"
        title = f"{title}; columns by true class{note} ({network.title})"
        save_image_grid(grid, path, columns, title, captions, scale=4)
    return metrics


def strength_section(networks, test_set, folder):
    """The study of robustness for all networks, and their paired differences.

    Writes robustness.png, attack_convergence.png and perturbed_NETWORK_epsilonE.png to `folder`.
    Returns {name of the network: metrics}: percentages in the order of EPSILONS, 95 % intervals.
    """
    metrics_of, correct_of = {}, {}
    for n in networks:
        metrics_of[n.name], correct_of[n.name] = _study_of(n, test_set, folder)
    _plot_study(metrics_of, line_styles(networks), folder)
    differences = paired_differences(correct_of)
    return {name: of | {"differences": differences[name]} for name, of in metrics_of.items()}


def _study_of(network, test_set, folder):
    """(metrics, {attack: bool (n,), whether each image is correct, for the paired differences})."""
    images, labels, names = test_set.images, test_set.labels, test_set.class_names
    rows, columns, note = test_set.columns(1)
    options = EPSILONS, FULL_EPSILON, rows.tolist(), f"attacks, {network.name}"
    predicted, pgd_levels, evaluations = adversarial.study(network, images, labels, *options)
    clean = adversarial.predict_classes(network, images)
    withstood = evaluations.isinf()
    gradients = list(range(0, adversarial.BUDGET + 1, 10))
    metrics = {
        "images": len(labels),
        "epsilons": EPSILONS,
        "precision_of_gradients": network.precision,
        "accuracy_clean": percent(clean == labels),
        "interval_clean": percent_interval(clean == labels),
        "full_attack": {
            "epsilon": f"{FULL_EPSILON:g}/255",
            "accuracy": percent(withstood),
            "interval": percent_interval(withstood),
            "gradients_per_image": gradients,
            "accuracy_after": [percent(evaluations > count) for count in gradients],
        },
    }
    print(
        f"{network.name}, accuracy in % on the first {len(labels)} test images: "
        f"{metrics['accuracy_clean']:.2f}; under attack of {EPSILONS}/255:"
    )
    for attack, classes in predicted.items():
        accuracies = [percent(row == labels) for row in classes]
        metrics[f"{attack}_accuracy"] = accuracies
        metrics[f"{attack}_interval"] = [percent_interval(row == labels) for row in classes]
        print(f"  {attack:<5}" + "".join(f"{accuracy:7.2f}" for accuracy in accuracies))

    for epsilon, levels in zip((0.0, *EPSILONS), (images[rows].float(), *pgd_levels), strict=True):
        levels = levels.round()  # the caption is the prediction for the displayed image
        path = folder / f"perturbed_{network.slug}_epsilon{epsilon:g}.png"
        title = f"Projected gradient descent, up to {epsilon:g}/255, rounded to whole levels"
        title += f", {network.title}{note}"
        probabilities = predict(network.at("fp32"), levels).softmax(1)
        captions = prediction_captions(probabilities, names)
        save_image_grid(levels.byte(), path, columns, title, captions, scale=4)
    noise = predicted["noise"][EPSILONS.index(8.0)] == labels
    return metrics, {"full attack at 4/255": withstood, "noise at 8/255": noise}


def _plot_study(metrics_of, styles, folder):
    """robustness.png, a chart for each attack, and attack_convergence.png, a line per network.

    The accuracy over the number of gradients is flat where the full attack has converged.
    """
    count = next(iter(metrics_of.values()))["images"]
    common = {"y": f"accuracy on {count} test images, %", "height": 100}
    x = "epsilon, the largest change of a pixel, / 255"
    charts = {title: common | {"x": x, "lines": {}} for title in CHARTS.values()}
    lines = {}
    for name, of in metrics_of.items():
        for attack, title in CHARTS.items():
            accuracies = [of["accuracy_clean"], *of[f"{attack}_accuracy"]]
            charts[title]["lines"][name] = ([0.0, *EPSILONS], accuracies, styles[name])
        points = of["full_attack"]["gradients_per_image"], of["full_attack"]["accuracy_after"]
        lines[name] = (*points, styles[name] | {"marker": None})
    save_charts(charts, folder / "robustness.png", columns=3)
    chart = common | {"x": "gradient evaluations for each image", "lines": lines}
    title = f"Upper bound on the robust accuracy at {FULL_EPSILON:g}/255"
    save_charts({title: chart}, folder / "attack_convergence.png")
