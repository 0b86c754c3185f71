"""The interactive page: the networks in 8 bits, images and statistics of every feature."""

import base64
import io
from pathlib import Path

import jinja2
import torch
import torch.nn.functional as F
from PIL import Image

from data_tools import DATASETS, DataMissing, Dataset, load_dataset
from discriminator import MAP_SIZES
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.engine.weights import (
    check_classes,
    class_names_of,
    common_class_names,
    export_bytes,
    find_weights,
    from_8_bits,
    is_published,
    load_model,
    to_8_bits,
)
from inside_cnn.interpretability.layer_probes import class_selectivity, most_correlated
from inside_cnn.interpretability.network import TRAININGS, load_networks
from inside_cnn.interpretability.top_images import peak_positions, strongest_units
from inside_cnn.metrics import sampling

IMAGES = 200  # of the gallery, the same number of each class
REFERENCE = 1000  # images of which the statistics are, the gallery first
TOP_IMAGES = 8  # of the gallery, for each feature
FAVORED = 10  # features for each class
COLUMNS = 20  # of the gallery's picture
FOLDER = Path(__file__).parent
WASM = "vendor/tfjs-backend-wasm-simd.wasm"
SCRIPTS = (
    "vendor/tf.es2017.min.js",
    "vendor/tf-backend-wasm.es2017.min.js",
    *("net.js", "algorithms.js", "page.js", "images.js", "attack.js", "sample.js"),
    *("maximize.js", "activations.js", "ablation.js", "start.js"),
)
WORDS = {"without G": "classifier", "with G": "critic"}


def contents_of(given, data_dir=None, dataset="auto"):
    """The data of the page, as a dict for JSON.

    given: {"without G", "with G", "generator": path or None}, see `find_weights`; dataset,
    data_dir: as of load_dataset, but `auto` is the set that the networks were trained on. The
    gallery has test images, else generated ones, else there is none. Nothing is downloaded.
    Raises UserError for weights that are missing, corrupt or of different classes, and for a set
    that cannot be used.
    """
    networks = load_networks({name: given[name] for name in TRAININGS}, "cpu")
    generator, metadata_of = load_generator(given["generator"], networks)
    metadata_of |= {network.path: network.metadata for network in networks}
    images = test_images(networks, dataset, data_dir)
    for path, metadata in metadata_of.items() if images else ():
        check_classes(path, metadata, images)
    names = list(images.class_names) if images else common_class_names(metadata_of)
    if images is None and generator is not None:
        images = generated_images(generator, names)
    gallery = images and images.first(IMAGES)
    for network in networks:  # all statistics are those of the networks in the page
        network.model.load_state_dict(from_8_bits(to_8_bits(network.model.state_dict())))
        print(f"{WORDS[network.name]}: {network.path}, width {network.width}")
    print(f"images: {gallery.source if gallery else 'only those that you open in the page'}")
    with torch.no_grad():
        described = [description(network, gallery) for network in networks]
    if gallery:
        add_statistics(described, networks, images)
    return {
        "classes": names,
        "networks": described,
        "generator": generator and base64_of(export_bytes(generator, {}, in_8_bits=True)),
        "gallery": gallery
        and {
            "title": "generated image" if gallery.name == "generated" else "test image",
            "columns": COLUMNS,
            "labels": gallery.labels.tolist(),
            "png": base64_of(png_of(gallery.images)),
        },
        "layers": [
            field._asdict() | {"side": side}
            for field, side in zip(networks[0].fields.values(), MAP_SIZES, strict=True)
        ],
    }


def load_generator(given, networks):
    """(the generator or None, {path: its metadata}).

    The published one is skipped if it was not requested and the networks have other classes.
    """
    path = find_weights(given, "generator.safetensors", TRAININGS["with G"][1])
    if given is None and not path.is_file():
        print("no generator: run train_gan.py to add one")
        return None, {}
    generator, metadata = load_model(path, kind="generator")
    names = class_names_of(networks[0].metadata)
    if given is None and is_published(path) and class_names_of(metadata) != names:
        print(f"{path} has other classes than {networks[0].path}: skipped")
        return None, {}
    print(f"generator: {path}, width {generator.width}")
    return generator, {str(path): metadata}


def test_images(networks, dataset, data_dir):
    """REFERENCE test images, the classes in turn; None if the dataset is not on the disk."""
    sets = {str(network.metadata.get("dataset")) for network in networks}
    if dataset == "auto" and len(sets) > 1:
        raise UserError(f"the networks were trained on different sets ({', '.join(sorted(sets))})")
    name = dataset if dataset != "auto" else sets.pop()
    if name not in DATASETS or name == "auto":
        return None
    try:
        _, test = load_dataset(name, data_dir, download=False)
    except DataMissing as reason:
        if dataset != "auto":
            raise
        print(f"no test images: {reason}")
        return None
    order = torch.empty_like(test.labels)  # by the rank within the class, then by class
    for label in range(len(test.class_names)):
        rows = test.labels == label
        order[rows] = torch.arange(int(rows.sum())) * len(test.class_names) + label
    return test.select(order.argsort()).first(REFERENCE)


def generated_images(generator, names):
    """A Dataset of IMAGES samples, the classes in turn."""
    labels = sampling.sample_labels(IMAGES, range(len(names)))
    latents = sampling.latents_of(labels, generator.latent_dim, seed=0, num_classes=len(names))
    images = sampling.generate(generator, latents)
    return Dataset("generated", images, labels, tuple(names), "samples of the generator")


def description(network, gallery):
    """A network's name and weights, whether its score was trained, and the predicted classes."""
    predicted = None
    if gallery:
        batches = (gallery.images / 127.5 - 1).split(100)
        predicted = torch.cat([network.logits(batch).argmax(1) for batch in batches]).tolist()
    return {
        "name": WORDS[network.name],
        "critic": network.has_critic,
        "weights": base64_of(export_bytes(network.model, {}, in_8_bits=True)),
        "predicted": predicted,
    }


def add_statistics(described, networks, images):
    """Add to each description, as `layers`, the statistics of every feature on the images.

    For each layer and feature, mean and std: of the largest activation in an image; peak: [row,
    column]; top: the images of the gallery with the largest activations, each [image, row, column];
    match: [the most correlated feature of the other network, correlation]. favored: for each class
    the features with the largest class selectivity.
    """
    batches, classes = images.images.split(100), len(images.class_names)
    units = [strongest_units(network, batches, network.layer_names) for network in networks]
    for own, other, description in zip(units, units[::-1], described, strict=True):
        description["layers"] = []
        for layer, (values, rows, columns) in own.items():
            best = values[:IMAGES].topk(min(TOP_IMAGES, len(values)), dim=0).indices
            places = best, rows.gather(0, best).long(), columns.gather(0, best).long()
            selectivity = class_selectivity(values, images.labels, classes)
            width = values.shape[1]
            statistics = {
                "mean": values.mean(0).tolist(),
                "std": values.std(0).tolist(),
                "peak": peak_positions(values, rows, columns).tolist(),
                "top": torch.stack(places, 2).transpose(0, 1).tolist(),
                "favored": selectivity.topk(min(FAVORED, width)).indices.tolist(),
            }
            if other is not own:
                others = other[layer][0]
                statistics["match"] = [most_correlated(values, others, k) for k in range(width)]
            description["layers"].append(statistics)


def png_of(images):
    """The bytes of a PNG with images, uint8 (n, 3, 32, 32), in rows of COLUMNS."""
    missing = -len(images) % COLUMNS
    grid = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)).unflatten(0, (-1, COLUMNS))
    levels = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).contiguous()
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def base64_of(data):
    return base64.b64encode(data).decode()


def write_page(contents, path):
    """Write the page, one HTML file, atomically. Raises OSError."""
    parts = {
        "style": (FOLDER / "page.css").read_text(encoding="utf-8"),
        "scripts": [(FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS],
        "data": contents | {"wasm": base64_of((FOLDER / WASM).read_bytes())},
    }
    template = jinja2.Template((FOLDER / "page.html").read_text(encoding="utf-8"), autoescape=True)
    write_atomically(path, template.render(parts).encode())
