"""Calibration: does a class probability of 0.8 mean 80 % correct?"""

import torch

from inside_cnn.engine.plots import save_charts
from inside_cnn.interpretability.adversarial import predict
from inside_cnn.interpretability.network import line_styles

BINS = 15
MIN_PLOTTED = 20  # images in a bin of the diagram


def calibration(probabilities, labels, bins=BINS):
    """Expected calibration error, and the mean confidence, accuracy and count of each bin.

    probabilities: float (n, classes); labels: int64 (n,). The confidence is the largest
    probability; bins have equal width. Returns a float, 0 to 1, and three float64 (bins,).
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    confidence, predicted = probabilities.double().max(1)
    index = (confidence * bins).long().clamp_max(bins - 1)
    correct = (predicted == labels).double()
    counts, confidences, corrects = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, index, values)
        for values in (torch.ones_like(correct), confidence, correct)
    )
    error = (corrects - confidences).abs().sum() / len(labels)
    filled = counts.clamp_min(1)
    return error.item(), confidences / filled, corrects / filled, counts


def calibration_section(networks, test_set, folder):
    """The calibration of all networks; returns {name: metrics}, in %.

    Writes calibration.png, a reliability diagram, to `folder`.
    """
    styles = line_styles(networks)
    metrics_of, lines = {}, {}
    for network in networks:
        probabilities = predict(network.at("fp32"), test_set.images).softmax(1).cpu()
        error, confidences, accuracies, counts = calibration(probabilities, test_set.labels.cpu())
        plotted = counts >= MIN_PLOTTED
        points = [(100 * values[plotted]).tolist() for values in (confidences, accuracies)]
        lines[f"{network.name}, ECE {100 * error:.1f} %"] = (*points, styles[network.name])
        metrics_of[network.name] = {
            "expected_calibration_error": round(100 * error, 2),
            "mean_confidence": round(100 * probabilities.amax(1).mean().item(), 2),
            "images": len(test_set),
        }
        print(f"{network.name}: expected calibration error {100 * error:.2f} %")
    lines["perfect"] = ([0, 100], [0, 100], {"color": "0.6", "linestyle": ":"})
    title = "Reliability of the class probabilities"
    chart = {"x": "confidence, %", "y": "accuracy, %", "height": 100, "lines": lines}
    save_charts({title: chart}, folder / "calibration.png")
    return metrics_of
