import itertools

import pytest
import torch

import data_tools
from discriminator import Discriminator
from inside_cnn.interpretability.layer_figures import layer_section, similarity_lines
from inside_cnn.interpretability.layer_probes import firing_rate, pooled_features, probe_accuracy
from networks import as_network


def test_each_measure_is_of_its_own_layer_and_network(trained, tmp_path, capsys):
    """Probes are fitted on one half of the test images and evaluated on the other."""
    _, test = data_tools.load_shapes()
    test = test.first(300)
    torch.manual_seed(0)
    networks = [as_network(trained, "without G"), as_network(Discriminator(width=12), "with G")]
    metrics_of = layer_section(networks, test, tmp_path)
    for network in networks:
        metrics = metrics_of[network.name]
        features_of = pooled_features(network, test.images).values()
        labels = test.labels
        accuracies = [
            probe_accuracy(features[:150], labels[:150], features[150:], labels[150:])
            for features in features_of
        ]
        assert metrics["probe_accuracy"] == pytest.approx(accuracies, abs=0.01)
        rare = [100 * (firing_rate(f) < 0.01).double().mean().item() for f in features_of]
        assert metrics["fires_below_1_percent"] == pytest.approx(rare, abs=0.01)
        assert metrics["images"] == [150, 150]
    alike = metrics_of["with G"]["cka"]["without G"]
    assert metrics_of["without G"]["cka"] == {"with G": alike}
    assert max(alike) < 0.999
    assert metrics_of["with G"]["cka_standardized"]["without G"] != alike
    assert (tmp_path / "layers.png").exists()
    out = capsys.readouterr().out
    assert out.count("layer  sees (pixels)  map  probe %") == 2


def test_a_network_is_like_itself(trained, tmp_path):
    test = data_tools.load_shapes()[1].first(100)
    networks = [as_network(trained, "without G"), as_network(trained, "with G")]
    networks.append(as_network(Discriminator(width=12), "other"))
    metrics_of = layer_section(networks, test, tmp_path)
    assert metrics_of["with G"]["cka"]["without G"] == pytest.approx([1.0] * 8)
    assert metrics_of["other"]["cka"].keys() == {"without G", "with G"}
    assert max(metrics_of["other"]["cka"]["with G"]) < 0.999


def test_the_legend_tells_pairs_with_controls_by_their_kind():
    names = ["without G", "with G", "one", "two", "three"]
    alike = {pair: list(range(8)) for pair in itertools.permutations(names, 2)}
    metrics_of = {name: {"cka": {o: alike[name, o] for o in names if o != name}} for name in names}
    lines = similarity_lines(metrics_of)
    assert len(lines) == 10
    assert [name for name in lines if not name.startswith("_")] == [
        "without G and with G",
        "without G and a control",
        "with G and a control",
        "two controls",
    ]
    colours = [style["color"] for _, _, style in lines.values()]
    assert [colours.count(colour) for colour in ("black", "C2", "C4", "C6", "C7")] == [
        1,
        2,
        2,
        2,
        3,
    ]


def test_deeper_layers_tell_the_classes_better(trained, tmp_path):
    _, test = data_tools.load_shapes()
    networks = [as_network(trained, "without G")]
    metrics_of = layer_section(networks, test, tmp_path)
    metrics = metrics_of["without G"]
    assert metrics["cka"] == {}
    assert metrics["probe_accuracy"][7] > metrics["probe_accuracy"][0] + 10
    assert metrics["probe_accuracy"][7] > 70
