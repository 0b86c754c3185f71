"""Tables of the control networks: every seed of each measure, and differences between arms.

`make findings` writes results/ladder/summary.json, the metrics of each network, which is named
after its arm and seed. The functions return the headings and rows of a table.
"""

import itertools
import statistics

from inside_cnn.core.files import read_json

# {arm: what is added to the class loss}, in the order of docs/training.md, "Control networks".
ARMS = {
    "full": "WGAN-GP",
    "trained": "WGAN-GP, fixed generator",
    "frozen": "WGAN-GP, untrained generator",
    "penalty": "gradient penalty",
    "none": "nothing",
    "none_early": "nothing, 2 epochs",
    "relativistic": "R3GAN",
}
STEPS = (  # arms that differ in one part of the loss, the ends, equal accuracy, another loss
    ("penalty", "none"),
    ("frozen", "penalty"),
    ("trained", "frozen"),
    ("full", "trained"),
    ("full", "none"),
    ("full", "none_early"),
    ("relativistic", "full"),
    ("relativistic", "none"),
)

# Title, path in a network's metrics, key in their `differences` ("": they have none).
MEASURES = (
    (
        "accuracy after the full attack, epsilon 4/255",
        "strength_study/full_attack/accuracy",
        "full attack at 4/255",
    ),
    ("accuracy under noise of 8/255", "strength_study/noise_accuracy/4", "noise at 8/255"),
    (
        "gradient energy above 0.4 cycles per pixel",
        "frequency/gradient_energy/4",
        "gradient energy of 0.4 to 0.75 cycles per pixel",
    ),
    (
        "accuracy lost under noise above 0.4 cycles per pixel",
        "frequency/accuracy_lost/4",
        "accuracy lost under noise of 0.4 to 0.75 cycles per pixel",
    ),
    (
        "accuracy lost under noise below 0.1 cycles per pixel",
        "frequency/accuracy_lost/0",
        "accuracy lost under noise of 0 to 0.1 cycles per pixel",
    ),
    ("linear probe, layer 4", "layers/probe_accuracy/3", ""),
    ("linear probe, layer 8", "layers/probe_accuracy/7", ""),
    ("mean AUC of the best class, layer 8", "layers/class_auc/7", ""),
    ("expected calibration error", "calibration/expected_calibration_error", ""),
    ("AUC, test images and uniform noise", "critic_score/uniform noise/auc", ""),
    ("AUC, test images and shuffled patches", "critic_score/test images, patches shuffled/auc", ""),
)


# The published pair in results/visualization/summary.json.
PUBLISHED = {"without G": "classifier", "with G": "critic"}
OVERVIEW = (  # column, path
    ("accuracy", "strength_study/accuracy_clean"),
    ("PGD 2/255", "strength_study/pgd_accuracy/2"),
    ("PGD 4/255", "strength_study/full_attack/accuracy"),
    ("gradient energy", "frequency/gradient_energy/4"),
    ("under noise", "frequency/accuracy_under_noise/4"),
)


def value_at(tree, path):
    """The value at "key/key/index" in dicts and lists; None if a key is missing; "": the tree."""
    for key in filter(None, path.split("/")):
        if tree is None:
            return None
        tree = tree[int(key)] if isinstance(tree, list) else tree.get(key)
    return tree


def networks_of(results):
    """{arm: {name of the network: metrics}}, in the order of the seeds."""
    summary = read_json(results / "ladder/summary.json")
    return {
        arm: {n: of for n, of in sorted(summary.items()) if n.rpartition("_")[0] == arm}
        for arm in ARMS
    }


def accuracy(results):
    """Test accuracies: a row for each arm, a column for each seed."""
    rows = []
    for arm in ARMS:
        files = [results / f"ladder/{arm}_{seed}/summary.json" for seed in range(3)]
        cells = [f"{read_json(f)['test_accuracy']:.2f}" if f.is_file() else "–" for f in files]
        rows.append([f"`{arm}`", *cells])
    return ["test accuracy, %", "seed 0", "seed 1", "seed 2"], rows


def overview(results):
    """A row for each arm and published network, with the range of each of OVERVIEW."""
    published = read_json(results / "visualization/summary.json")
    networks = {(f"`{n}`", ARMS[n]): list(of.values()) for n, of in networks_of(results).items()}
    networks |= {("published", name): [published[key]] for key, name in PUBLISHED.items()}
    rows = []
    for (name, added), of in networks.items():
        row = [name, added, len(of)]
        for _, path in OVERVIEW:
            values = [round(v) for metrics in of if (v := value_at(metrics, path)) is not None]
            row.append(" to ".join(map(str, sorted({min(values), max(values)}))) if values else "–")
        rows.append(row)
    return ["network", "added loss", "seeds", *(column for column, _ in OVERVIEW)], rows


def measures(results):
    """A row for each measure, a column for each arm, with the values of all seeds."""
    networks = networks_of(results)
    rows = []
    for title, path, _ in MEASURES:
        row = [title]
        for of_arm in networks.values():
            values = [value_at(metrics, path) for metrics in of_arm.values()]
            row.append(", ".join(f"{value:.3g}" for value in values if value is not None) or "–")
        rows.append(row)
    return ["", *(f"`{arm}`" for arm in ARMS)], rows


def differences(results):
    """A row for each measure, a column for each of STEPS: the range over all pairs of seeds.

    With intervals, it is from their lowest to their highest end; then bold, if it excludes 0 and if
    both arms have at least two seeds.
    """
    networks = networks_of(results)
    rows = []
    for title, path, key in MEASURES:
        row = [title]
        for arm, base in STEPS:
            pairs = itertools.product(networks[arm].values(), networks[base].items())
            ends = [e for one, (name, other) in pairs for e in _ends(path, key, one, name, other)]
            low, high = (min(ends) + 0.0, max(ends) + 0.0) if ends else (0, 0)  # + 0.0: no "-0"
            text = f"{low:+.2g} to {high:+.2g}" if low < high else f"{low:+.2g}" if ends else "–"
            several = min(len(networks[arm]), len(networks[base])) > 1
            is_real = key and several and (low > 0 or high < 0)
            row.append(f"**{text}**" if is_real else text)
        rows.append(row)
    return ["", *(f"`{arm}` − `{base}`" for arm, base in STEPS)], rows


def _ends(path, key, one, name, other):
    """The ends of the interval of a difference, or the difference of the values itself.

    Empty for networks without these values, or that were not compared.
    """
    values = value_at(one, path), value_at(other, path)
    if None in values:
        return []
    if not key:
        return [values[0] - values[1]]
    section = path.partition("/")[0]
    return one[section]["differences"].get(name, {}).get(key, [])[1:]


def similarity(results):
    """Standardized CKA: a row for each pair of arms, a column for each layer.

    Mean and range over all pairs of different networks.
    """
    networks = networks_of(results)
    rows = []
    for arm, other in (("none", "none"), ("full", "full"), ("trained", "trained"), *STEPS):
        curves = [
            of["layers"]["cka_standardized"][name]
            for one, of in networks[arm].items()
            for name in networks[other]
            if name != one
        ]
        cells = [
            f"{statistics.mean(layer):.2f} ({min(layer):.2f} to {max(layer):.2f})"
            for layer in zip(*curves, strict=True)
        ]
        rows.append([f"`{arm}` and `{other}`", *(cells or ["–"] * 8)])
    return ["layer", *range(1, 9)], rows


def transfer(results):
    """Accuracy on images attacked on another network, minus accuracy under noise of that size.

    A row for each attacked arm, a column for each arm that predicts; means over pairs of networks.
    """
    networks = networks_of(results)
    rows = []
    for source in ARMS:
        row = [f"`{source}`"]
        for arm in ARMS:
            pairs = itertools.product(networks[source].items(), networks[arm].items())
            lost = [
                attacked - metrics["transfer"]["baselines"]["noise"]
                for (one, of), (name, metrics) in pairs
                if one != name
                and (attacked := value_at(of, f"transfer/adversarial_images/{name}")) is not None
            ]
            row.append(str(round(statistics.mean(lost))) if lost else "–")
        rows.append(row)
    return ["attacked", *(f"`{arm}`" for arm in ARMS)], rows
