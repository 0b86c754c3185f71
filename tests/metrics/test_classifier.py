import pytest
import torch
import torch.nn.functional as F

from data_tools import load_dataset, to_signed
from discriminator import Discriminator
from inside_cnn.metrics.classifier import evaluate, features_and_logits


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Discriminator(width=4)


@pytest.fixture
def test_set():
    return load_dataset("shapes")[1].first(203)


def test_evaluate_by_hand(model, test_set):
    metrics = evaluate(model, test_set, "fp32")
    assert model.training  # as before
    with torch.no_grad():
        logits = model(to_signed(test_set.images))[1]
    correct = (logits.argmax(1) == test_set.labels).double()
    assert metrics["test_loss"] == pytest.approx(F.cross_entropy(logits, test_set.labels).item())
    assert metrics["test_accuracy"] == pytest.approx(100 * correct.mean().item(), abs=1e-4)
    assert list(metrics["per_class_accuracy"]) == list(test_set.class_names)
    for index, accuracy in enumerate(metrics["per_class_accuracy"].values()):
        expected = 100 * correct[test_set.labels == index].mean().item()
        assert accuracy == pytest.approx(expected, abs=1e-4)


def test_class_without_images_has_no_accuracy(model, test_set):
    metrics = evaluate(model, test_set.select(test_set.labels != 9), "fp32")
    assert list(metrics["per_class_accuracy"]) == list(test_set.class_names[:9])
    accuracies = [*metrics["per_class_accuracy"].values(), metrics["test_accuracy"]]
    assert all(0 <= value <= 100 for value in accuracies)  # not NaN
    assert 0 < metrics["test_loss"] < 10


def test_the_head_is_in_float32(model, test_set):
    _, logits = features_and_logits(model, test_set.images, "bf16")
    _, exact = features_and_logits(model, test_set.images)
    assert (logits != logits.bfloat16().float()).any()
    assert torch.allclose(logits, exact, atol=0.05)
