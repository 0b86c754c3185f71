import pytest
import torch

import data_tools
from discriminator import Discriminator
from inside_cnn.interpretability.layer_figures import layer_section
from inside_cnn.interpretability.layer_probes import firing_rate, pooled_features, probe_accuracy
from networks import as_network


def test_measures_of_each_layer_and_network(trained, tmp_path, capsys):
    """Probes are fitted on one half of the test images and evaluated on the other."""
    test = data_tools.load_shapes()[1].first(300)
    torch.manual_seed(0)
    networks = [as_network(trained, "without G"), as_network(Discriminator(width=12), "with G")]
    networks.append(as_network(trained, "copy"))
    metrics_of = layer_section(networks, test, tmp_path)
    for network in networks[:2]:
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
    similarity = metrics_of["with G"]["cka"]
    assert similarity.keys() == {"without G", "copy"}
    assert metrics_of["without G"]["cka"]["with G"] == similarity["without G"]
    assert max(similarity["without G"]) < 0.999
    assert metrics_of["with G"]["cka_standardized"]["without G"] != similarity["without G"]
    assert metrics_of["copy"]["cka"]["without G"] == pytest.approx([1.0] * 8)
    assert (tmp_path / "layers.png").exists()
    assert "layers 1 to 8, trained with G, 300 test images" in capsys.readouterr().out


def test_probe_accuracy_increases_with_depth(trained, tmp_path):
    _, test = data_tools.load_shapes()
    metrics = layer_section([as_network(trained)], test, tmp_path)["without G"]
    assert metrics["cka"] == {}
    assert metrics["probe_accuracy"][7] > metrics["probe_accuracy"][0] + 10
    assert metrics["probe_accuracy"][7] > 70
