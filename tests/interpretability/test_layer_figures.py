import itertools

import pytest
import torch

import data_tools
from discriminator import Discriminator
from interpretability.layer_figures import layer_section, similarity_lines
from interpretability.layer_probes import dead_share, pooled_features, probe_accuracy
from networks import as_network


def test_each_measure_is_of_its_own_layer_network_and_set(trained, tmp_path, capsys):
    """Probes are fitted on the training images and counted on the test images."""
    train, test = (part.first(300) for part in data_tools.load_shapes())
    test = test.first(200)
    torch.manual_seed(0)
    networks = [as_network(trained, "without G"), as_network(Discriminator(width=12), "with G")]
    metrics_of = layer_section(networks, train, test, "fp32", tmp_path)
    for network in networks:
        metrics = metrics_of[network.name]
        sets = [pooled_features(network.model, part.images) for part in (train, test)]
        pairs = list(zip(*sets, strict=True))
        accuracies = [
            probe_accuracy(features, train.labels, test_features, test.labels)
            for features, test_features in pairs
        ]
        assert metrics["probe_accuracy"] == pytest.approx(accuracies, abs=0.01)
        dead = [dead_share(test_features) for _, test_features in pairs]
        assert metrics["dead_share"] == pytest.approx(dead, abs=0.01)
        assert metrics["images"] == [300, 200]
    alike = metrics_of["with G"]["cka"]["without G"]
    assert metrics_of["without G"]["cka"] == {"with G": alike}
    assert max(alike) < 0.999
    assert (tmp_path / "layers.png").exists()
    out = capsys.readouterr().out
    assert out.count("layer  sees (pixels)  map  probe %") == 2


def test_a_network_is_like_itself(trained, tmp_path):
    train, test = (part.first(100) for part in data_tools.load_shapes())
    networks = [as_network(trained, "without G"), as_network(trained, "with G")]
    networks.append(as_network(Discriminator(width=12), "other"))
    metrics_of = layer_section(networks, train, test, "fp32", tmp_path)
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
    train, test = data_tools.load_shapes()
    networks = [as_network(trained, "without G")]
    metrics_of = layer_section(networks, train.first(1000), test.first(500), "fp32", tmp_path)
    metrics = metrics_of["without G"]
    assert metrics["cka"] == {}
    assert metrics["probe_accuracy"][7] > metrics["probe_accuracy"][0] + 10
    assert metrics["probe_accuracy"][7] > 70
