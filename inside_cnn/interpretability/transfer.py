"""Transfer of images that maximize a class, and of adversarial images, between networks."""

import torch
from matplotlib.figure import Figure

from data_tools import to_uint8
from inside_cnn.engine.plots import own_style, save_figure
from inside_cnn.interpretability.adversarial import (
    labeled_batches,
    predict_classes,
    projected_gradient,
    random_noise,
)
from inside_cnn.interpretability.maximization_figures import maximized_classes

EPSILON = 8.0  # of the adversarial images, in pixel values of 0 to 255
IMAGES = 500  # test images


def agreement(networks, images_of, labels):
    """{source: {network: share of the source's images whose label it predicts, %}}.

    images_of: {source: float (n, 3, 32, 32) in [0, 255]}; labels: int64 (n,).
    """
    matrix = {}
    for source, images in images_of.items():
        correct = {n.name: predict_classes(n, images) == labels for n in networks}
        matrix[source] = {name: 100 * of.double().mean().item() for name, of in correct.items()}
    return matrix


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


def transfer_section(networks, test_set, folder, class_images):
    """Both matrices; returns {name of the source: {matrix: {name of the network: %}}}.

    The adversarial one has two more sources, test images without and with noise of EPSILON, stored
    with every network as "baselines".
    class_images: {name: float (classes, 3, 32, 32) in [-1, 1]}, the images that maximize its class
    logits, in the order of the classes. Writes transfer.png to `folder`.
    """
    test_set = test_set.first(IMAGES)
    images, labels = test_set.images, test_set.labels
    adversarial = {n.name: adversarial_images(n, images, labels) for n in networks}
    stream = torch.Generator(images.device).manual_seed(0)
    baselines = {"test images": images.float(), "noise": random_noise(images, EPSILON, stream)}
    of_classes = {name: to_uint8(images).float() for name, images in class_images.items()}
    classes = torch.tensor(maximized_classes(test_set.class_names), device=labels.device)
    matrices = {
        "class_images": agreement(networks, of_classes, classes),
        "adversarial_images": agreement(networks, adversarial | baselines, labels),
    }
    names = [network.name for network in networks]
    plot_matrices(matrices, names, folder / "transfer.png")
    metrics_of = {name: {key: matrix[name] for key, matrix in matrices.items()} for name in names}
    for name, metrics in metrics_of.items():
        metrics |= {"images": len(labels), "classes": len(classes)}
        metrics["baselines"] = {k: matrices["adversarial_images"][k][name] for k in baselines}
    return metrics_of


@own_style()
def plot_matrices(matrices, names, path):
    """Both matrices as images with their numbers; names: the networks that predict."""
    titles = {
        "class_images": "Images that maximize a class:\npredicted as their class, %",
        "adversarial_images": f"Adversarial images,\nepsilon {EPSILON:g}/255: accuracy, %",
    }
    side = 3.5 + 0.5 * len(names)
    figure = Figure(figsize=(2 * side, side), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        sources = list(matrices[key])
        rows = [[matrices[key][source][name] for name in names] for source in sources]
        axes.imshow(rows, vmin=0, vmax=100, cmap="viridis")
        axes.set(title=title, xlabel="predicted by", ylabel="made for")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(sources)), sources)
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                color = "black" if value > 60 else "white"
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=color)
    save_figure(figure, path)
