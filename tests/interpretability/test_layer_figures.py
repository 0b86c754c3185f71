import pytest
import torch

import data_tools
from discriminator import Discriminator
from inside_cnn.core.errors import UserError
from inside_cnn.interpretability.layer_figures import layer_section
from inside_cnn.interpretability.layer_probes import class_auc, probe_accuracy
from inside_cnn.interpretability.top_images import strongest_units
from networks import as_network


def test_measures_of_each_layer_and_network(trained, tmp_path, capsys):
    """Probes are fitted on one half of the test images and evaluated on the other."""
    test = data_tools.load_shapes()[1].first(300)
    torch.manual_seed(0)
    networks = [as_network(trained, "without G"), as_network(Discriminator(width=8), "with G")]
    metrics_of = layer_section(networks, test, tmp_path)
    metrics, labels = metrics_of["without G"], test.labels
    units = strongest_units(networks[0], [test.images], range(1, 9))
    features_of = [values for values, *_ in units.values()]
    accuracies = [
        probe_accuracy(features[:150], labels[:150], features[150:], labels[150:], 10)
        for features in features_of
    ]
    assert metrics["probe_accuracy"] == pytest.approx(accuracies, abs=0.01)
    assert accuracies[7] > accuracies[0] + 10
    rare = [100 * ((f > 0).double().mean(0) < 0.01).double().mean().item() for f in features_of]
    assert metrics["fires_below_1_percent"] == pytest.approx(rare, abs=0.01)
    largest = [class_auc(features, labels, 10).amax(0) for features in features_of]
    means = [100 * auc.mean().item() for auc in largest]
    assert metrics["class_auc"] == pytest.approx(means, abs=0.01)
    assert means[7] > means[0] + 5
    assert metrics["images"] == [150, 150]
    similarity = metrics["cka"]["with G"]
    assert metrics_of["with G"]["cka"] == {"without G": similarity}
    assert max(similarity) < 0.999
    assert metrics["cka_standardized"]["with G"] != similarity
    assert (tmp_path / "layers.png").exists()
    assert "layers 1 to 8, trained with G, 300 test images" in capsys.readouterr().out


def test_too_few_images_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match="at least 4"):
        layer_section([as_network(trained)], data_tools.load_shapes()[1].first(3), tmp_path)
