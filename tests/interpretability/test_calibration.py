import pytest
import torch

import data_tools
from inside_cnn.interpretability.calibration import calibration, calibration_section, view_logits
from networks import as_network


def test_error_by_hand():
    """Four images at 0.95, two of them right; two at 0.65, both right: 4/6 0.45 + 2/6 0.35."""
    probabilities = torch.tensor([[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2)
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    error, confidences, accuracies, counts = calibration(probabilities, labels, bins=10)
    assert error == pytest.approx((4 * 0.45 + 2 * 0.35) / 6)
    assert counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 4]
    assert confidences[[6, 9]].tolist() == pytest.approx([0.65, 0.95])
    assert accuracies[[6, 9]].tolist() == pytest.approx([1.0, 0.5])
    assert calibration(torch.eye(3), labels[1:4])[3][-1] == 3  # confidence 1


def test_section_reports_the_error_of_a_network(trained, tmp_path):
    test_set = data_tools.load_shapes()[1].first(300)
    metrics = calibration_section([as_network(trained)], test_set, tmp_path)["without G"]
    probabilities = trained(data_tools.to_signed(test_set.images))[1].softmax(1)
    error = 100 * calibration(probabilities, test_set.labels)[0]
    assert metrics["expected_calibration_error"] == pytest.approx(error, abs=0.01)
    assert (tmp_path / "calibration.png").exists()
    correct = trained(data_tools.to_signed(test_set.images))[1].argmax(1) == test_set.labels
    assert metrics["accuracy"] == pytest.approx(100 * correct.float().mean().item(), abs=0.01)
    _, mean_logits = view_logits(as_network(trained), test_set.images)
    correct = mean_logits.argmax(1) == test_set.labels
    six_views = metrics["accuracy_of_six_views"]
    assert six_views == pytest.approx(100 * correct.float().mean().item(), abs=0.01)


class Pixel:
    """Logits are the values of one pixel of an image."""

    name = "pixel"

    def logits(self, images):
        return images[:, :, 1, 1] * 127.5 + 127.5


def test_views_by_hand():
    """Rows 0 10 20 30 / 1 11 21 31 / ...: the pixel (1, 1) of each of the six views."""
    image = torch.arange(4.0)[:, None] + 10 * torch.arange(4.0)
    views = {11: 1 / 4, 21: 1 / 4, 22: 1 / 8, 32: 1 / 8, 0: 1 / 8, 10: 1 / 8}
    expected = sum(weight * value for value, weight in views.items())
    logits, mean_logits = view_logits(Pixel(), image.expand(1, 3, 4, 4))
    assert logits.tolist() == [[11, 11, 11]]
    torch.testing.assert_close(mean_logits, torch.full((1, 3), expected))
