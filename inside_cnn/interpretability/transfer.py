"""Transfer of adversarial images between networks."""

import torch
from matplotlib.figure import Figure

from inside_cnn.engine.plots import own_style, save_figure
from inside_cnn.interpretability.adversarial import (
    labeled_batches,
    predict_classes,
    projected_gradient,
    random_noise,
)

EPSILON = 8.0  # of the adversarial images, in pixel values of 0 to 255
IMAGES = 500  # test images


def adversarial_images(network, images, labels):
    """Images after 20 steps of PGD at EPSILON: uint8 (n, 3, 32, 32) -> float32, [0, 255].

    All images take all steps. Otherwise images would stop where they just fool this network, and
    transfer less if it is easy to fool.
    """
    attacked = []
    for batch, classes in labeled_batches(images, labels, f"transfer, {network.name}"):
        stream = torch.Generator(images.device).manual_seed(0)
        options = {"steps": 20, "stop_early": False, "generator": stream}
        attacked.append(projected_gradient(network, batch, classes, EPSILON, **options)[0])
    return torch.cat(attacked)


def transfer_section(networks, test_set, folder):
    """The accuracy of every network, in %, on images attacked on each network.

    Returns {name of the attacked network: {"adversarial_images": {name of a network: its accuracy},
    "baselines": the attacked network's own accuracy without attack and under noise of EPSILON,
    "images": their number}}.
    Writes transfer.png to `folder`.
    """
    test_set = test_set.first(IMAGES)
    images, labels = test_set.images, test_set.labels
    stream = torch.Generator(images.device).manual_seed(0)
    baselines = {"test images": images.float(), "noise": random_noise(images, EPSILON, stream)}
    images_of = {n.name: adversarial_images(n, images, labels) for n in networks} | baselines
    matrix = {}
    for source, levels in images_of.items():
        correct = {n.name: predict_classes(n, levels) == labels for n in networks}
        matrix[source] = {name: 100 * of.double().mean().item() for name, of in correct.items()}
    plot_matrix(matrix, folder / "transfer.png")
    return {
        n.name: {
            "adversarial_images": matrix[n.name],
            "images": len(labels),
            "baselines": {source: matrix[source][n.name] for source in baselines},
        }
        for n in networks
    }


@own_style()
def plot_matrix(matrix, path):
    """An image with its numbers: a row for each source, a column for each network that predicts."""
    names = list(matrix["noise"])
    side = 3.5 + 0.5 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow([list(row.values()) for row in matrix.values()], vmin=0, vmax=100, cmap="viridis")
    title = f"Accuracy on adversarial images,\nepsilon {EPSILON:g}/255, %"
    axes.set(title=title, xlabel="predicted by", ylabel="attacked network, or images")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(matrix)), list(matrix))
    for i, row in enumerate(matrix.values()):
        for j, value in enumerate(row.values()):
            color = "black" if value > 60 else "white"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=color)
    save_figure(figure, path)
