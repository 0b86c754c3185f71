import pytest
import torch
import torch.nn.functional as F

import data_tools
from discriminator import Discriminator
from inside_cnn.interpretability.adversarial_figures import one_step
from networks import as_network


def test_one_step_reports_the_accuracy_on_perturbed_images(tmp_path, capsys):
    torch.manual_seed(0)
    model, epsilon = Discriminator(width=12).requires_grad_(False), 16
    test_set = data_tools.load_shapes()[1].first(100)
    labels, targets = test_set.labels, (test_set.labels + 1) % 10
    x = data_tools.to_signed(test_set.images).requires_grad_()
    logits = model(x)[1]
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="sum"), x)
    moved = (x - 2 * epsilon / 255 * gradient.sign()).clamp(-1, 1)
    before, after = logits.argmax(1), model(moved)[1].argmax(1)

    metrics = one_step(as_network(model), test_set, epsilon, tmp_path, "_x")
    assert metrics == {
        "epsilon": f"{epsilon}/255",
        "images": 100,
        "accuracy_before": int((before == labels).sum()),
        "accuracy_after": pytest.approx(int((after == labels).sum()), abs=1),
        "became_alternate_label": pytest.approx(int((after == targets).sum()), abs=1),
    }
    assert metrics["became_alternate_label"] > int((before == targets).sum()) + 20
    assert f"-> {metrics['accuracy_after']:.2f} % after {epsilon}/255" in capsys.readouterr().out
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"real_images_x.png", "gradient_image_x.png", "jittered_images_x.png"}
