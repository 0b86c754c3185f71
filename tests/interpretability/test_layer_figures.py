import pytest
import torch

import data_tools
from interpretability import layer_figures
from interpretability.trained_networks import Network


def as_network(model, name):
    return Network(name, model, "somewhere", "digest", {}, None, None)


def test_each_measure_is_of_its_own_layer_and_set(trained, tmp_path, monkeypatch, capsys):
    """Probes are fitted on the training images and counted on the test images."""
    train, test = (part.first(400) for part in data_tools.load_shapes())
    sets = []

    def counted(features, labels, test_features, test_labels, classes):
        sets.append((labels, test_labels, len(features), len(test_features)))
        return float(len(sets))

    monkeypatch.setattr(layer_figures, "probe_accuracy", counted)
    networks = [as_network(trained, "without G"), as_network(trained, "with G")]
    found = layer_figures.layer_section(networks, train, test.first(300), "fp32", tmp_path)
    for labels, test_labels, count, test_count in sets:
        assert torch.equal(labels, train.labels)
        assert torch.equal(test_labels, test.labels[:300])
        assert (count, test_count) == (400, 300)
    assert found["without G"]["probe_accuracy"] == list(range(1, 9))
    assert found["with G"]["probe_accuracy"] == list(range(9, 17))
    assert found["with G"]["cka"] == pytest.approx([1.0] * 8)  # a network with itself
    assert found["with G"]["images"] == [400, 300]
    assert (tmp_path / "layers.png").exists()
    out = capsys.readouterr().out
    assert out.count("layer  sees (pixels)  map  probe %") == 2


def test_deeper_layers_tell_the_classes_better(trained, tmp_path):
    train, test = data_tools.load_shapes()
    found = layer_figures.layer_section(
        [as_network(trained, "without G")], train.first(1000), test.first(500), "fp32", tmp_path
    )
    figures = found["without G"]
    assert "cka" not in figures
    assert figures["probe_accuracy"][7] > figures["probe_accuracy"][0] + 10
    assert figures["probe_accuracy"][7] > 70
