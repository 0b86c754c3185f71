import pytest
import torch
import torch.nn.functional as F

from data_tools import load_dataset, to_signed
from discriminator import Discriminator
from inside_cnn.metrics.classifier import evaluate, predict


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Discriminator(width=4)


@pytest.fixture
def test_set():
    return load_dataset("shapes")[1].first(203)


def test_evaluate_by_hand(model, test_set):
    metrics = evaluate(model, test_set, "fp32")
    with torch.no_grad():
        logits = model(to_signed(test_set.images))[1]
    correct = (logits.argmax(1) == test_set.labels).double()
    assert metrics["test_loss"] == pytest.approx(F.cross_entropy(logits, test_set.labels).item())
    assert metrics["test_accuracy"] == pytest.approx(100 * correct.mean().item(), abs=1e-4)
    assert list(metrics["per_class_accuracy"]) == list(test_set.class_names)
    for index, accuracy in enumerate(metrics["per_class_accuracy"].values()):
        expected = 100 * correct[test_set.labels == index].mean().item()
        assert accuracy == pytest.approx(expected, abs=1e-4)


def test_a_class_without_an_image_has_no_accuracy(model, test_set):
    kept = test_set.labels != 3
    test_set.images, test_set.labels = test_set.images[kept], test_set.labels[kept]
    metrics = evaluate(model, test_set, "fp32")
    others = [name for index, name in enumerate(test_set.class_names) if index != 3]
    assert list(metrics["per_class_accuracy"]) == others
    everything = [*metrics["per_class_accuracy"].values(), metrics["test_accuracy"]]
    assert all(0 <= value <= 100 for value in everything)  # NaN is in no range
    assert 0 < metrics["test_loss"] < 10


def test_the_last_classes_may_be_the_ones_without_an_image(model, test_set):
    kept = test_set.labels < 2
    test_set.images, test_set.labels = test_set.images[kept], test_set.labels[kept]
    metrics = evaluate(model, test_set, "fp32")
    assert list(metrics["per_class_accuracy"]) == list(test_set.class_names[:2])


def test_predictions_do_not_depend_on_the_batches_and_leave_the_mode(model, test_set):
    whole = predict(model, test_set.images)
    assert whole.dtype == torch.float32
    assert whole.shape == (203, 10)
    parts = predict(model, test_set.images, batch_size=50)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert model.training
