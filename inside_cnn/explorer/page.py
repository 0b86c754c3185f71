"""The interactive page: the networks in 8 bits, images and statistics of every feature."""

import base64
from pathlib import Path

import jinja2
import torch
import torch.nn.functional as F

from data_tools import DATASETS, DataMissing, Dataset, load_dataset, to_signed
from discriminator import MAP_SIZES
from inside_cnn.core.errors import UserError
from inside_cnn.core.files import write_atomically
from inside_cnn.engine import weights
from inside_cnn.interpretability.layer_probes import class_auc
from inside_cnn.interpretability.network import load_networks
from inside_cnn.interpretability.top_images import peak_positions, strongest_units
from inside_cnn.metrics import sampling

IMAGES = 200  # of the gallery, the same number of each class
REFERENCE = 1000  # images of which the statistics are, the gallery first
TOP_IMAGES = 8  # of the gallery, for each feature
FAVORED = 10  # features for each class
FOLDER = Path(__file__).parent
WORDS = {"without G": "classifier", "with G": "critic"}


@torch.no_grad()
def contents_of(given, data_dir=None, dataset="auto"):
    """The data of the page, as a dict for JSON.

    given: {"without G", "with G", "generator": path or None}, see `load_networks` and
    `load_generator`; dataset, data_dir: as of load_dataset, but `auto` is the set that the networks
    were trained on. The gallery has test images, else generated ones, else there is none. Nothing
    is downloaded.
    Raises UserError for weights that are missing, corrupt or of different classes, and for a set
    that cannot be used.
    """
    networks = load_networks(given, "cpu")
    generator, metadata_of = load_generator(given["generator"], networks[-1])
    metadata_of |= {network.path: network.metadata for network in networks}
    images = test_images(networks, dataset, data_dir)
    for path, metadata in metadata_of.items() if images else ():
        weights.check_classes(path, metadata, images)
    names = list(images.class_names) if images else weights.common_class_names(metadata_of)
    if images is None and generator is not None:
        labels = sampling.sample_labels(IMAGES, range(len(names)))
        latents = sampling.latents_of(labels, generator.latent_dim, seed=0, num_classes=len(names))
        samples = sampling.generate(generator, latents)
        images = Dataset("generated", samples, labels, tuple(names), "samples of the generator")
    for network in networks:  # all statistics are those of the networks in the page
        rounded = weights.from_8_bits(weights.to_8_bits(network.model.state_dict()))
        network.model.load_state_dict(rounded)
        print(f"{WORDS[network.name]}: {network.path}, width {network.model.width}")
    print(f"images: {images.source if images else 'only those that you open in the page'}")
    return {
        "classes": names,
        "networks": descriptions(networks, images),
        "generator": generator and in_8_bits(generator),
        "gallery": images and description_of(images.first(IMAGES)),
        "layers": [
            field._asdict() | {"side": side}
            for (field, _), side in zip(networks[0].fields.values(), MAP_SIZES, strict=True)
        ],
    }


def load_generator(given, network):
    """(generator or None, {its path: metadata}); by default, the one beside the network."""
    path = Path(network.path).with_name("generator.safetensors")
    if given is not None:
        path = weights.find_weights(given, path.name)
    elif not path.is_file():
        print(f"no generator beside {network.path}: without --generator, there are no samples")
        return None, {}
    generator, metadata = weights.load_model(path, kind="generator")
    print(f"generator: {path}, width {generator.width}")
    return generator, {str(path): metadata}


def test_images(networks, dataset, data_dir):
    """REFERENCE test images, the classes in turn; None if the dataset is not on the disk."""
    sets = {str(network.metadata.get("dataset")) for network in networks}
    if dataset == "auto" and len(sets) > 1:
        raise UserError(f"the networks were trained on different sets ({', '.join(sorted(sets))})")
    name = dataset if dataset != "auto" else sets.pop()
    if name == "auto" or name not in DATASETS:
        return None
    try:
        _, test = load_dataset(name, data_dir, download=False)
    except DataMissing as reason:
        if dataset != "auto":
            raise
        print(f"no test images: {reason}")
        return None
    ranks = F.one_hot(test.labels).cumsum(0).gather(1, test.labels[:, None]).squeeze(1)
    order = ranks * len(test.class_names) + test.labels  # by the rank within the class, then class
    return test.select(order.argsort()).first(REFERENCE)


def descriptions(networks, images):
    """Of each network its name and weights, whether its score was trained, and, with images,

    predicted: the classes in the gallery; correct: how many are; layers: see `statistics`.
    """
    described = [
        {"name": WORDS[n.name], "critic": n.has_critic, "weights": in_8_bits(n.model)}
        for n in networks
    ]
    if images:
        gallery, batches = images.first(IMAGES), images.images.split(100)
        units = [strongest_units(n, batches, n.layer_names) for n in networks]
        for entry, network, own, other in zip(described, networks, units, units[::-1], strict=True):
            predicted = network.logits(to_signed(gallery.images)).argmax(1)
            entry["predicted"] = predicted.tolist()
            entry["correct"] = int((predicted == gallery.labels).sum())
            entry["layers"] = [statistics(own[n], other[n][0], images) for n in own]
    return described


def statistics(units, others, images):
    """The statistics of every feature of a layer on the images.

    units: from `strongest_units`; others: the values of the other network, or of the only one.
    mean, std: of the largest activation in an image; peak: [row, column]; top: the images of the
    gallery with the largest activations, each [image, row, column]; favored: for each class the
    features that separate it best from the others; match: [the most correlated one of the others,
    correlation].
    """
    values, rows, columns = units
    best = values[:IMAGES].topk(min(TOP_IMAGES, len(values)), dim=0).indices
    places = torch.stack([best, rows.gather(0, best), columns.gather(0, best)], 2)
    auc = class_auc(values, images.labels, len(images.class_names))
    return {
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "peak": peak_positions(*units).tolist(),
        "top": places.long().transpose(0, 1).tolist(),
        "favored": auc.topk(min(FAVORED, values.shape[1])).indices.tolist(),
        "match": most_correlated(values, others),
    }


def most_correlated(values, others):
    """For each column of (n, c), the most correlated one of the others, (n, d): (index, r).

    The correlation with a constant column is 0.
    """
    both = torch.corrcoef(torch.cat([values, others], 1).double().T)
    best = both[: values.shape[1], values.shape[1] :].nan_to_num().max(1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def description_of(gallery):
    return {
        "title": "generated image" if gallery.name == "generated" else "test image",
        "labels": gallery.labels.tolist(),
        "images": [base64_of(i.tobytes()) for i in gallery.images.movedim(1, 3).numpy()],
    }


def in_8_bits(model):
    return base64_of(weights.export_bytes(model, {}, in_8_bits=True))


def base64_of(data):
    return base64.b64encode(data).decode()


def write_page(contents, path):
    """Write the page, one HTML file, atomically. Raises OSError."""

    def read(name):
        return (FOLDER / name).read_text(encoding="utf-8")

    wasm = (FOLDER / "vendor/tfjs-backend-wasm-simd.wasm").read_bytes()
    template = jinja2.Template(read("page.html"), autoescape=True)
    page = template.render(read=read, data=contents | {"wasm": base64_of(wasm)})
    write_atomically(path, page.encode())
