import pytest
import torch

import data_tools
from discriminator import Discriminator
from inside_cnn.interpretability.transfer import transfer_section
from networks import as_network


def test_matrices_of_a_trained_and_an_untrained_network(trained, tmp_path):
    """Adversarial images fool the network they were made for; class images are test images."""
    test_set = data_tools.load_shapes()[1].first(50)
    torch.manual_seed(0)
    networks = [as_network(trained), as_network(Discriminator(width=4).eval(), "with G")]
    first = [int((test_set.labels == k).nonzero()[0]) for k in range(10)]
    class_images = {n.name: data_tools.to_signed(test_set.images[first]) for n in networks}
    matrices = transfer_section(networks, test_set, tmp_path, class_images)
    of_classes = matrices["without G"]["class_images"]
    right = trained(class_images["without G"])[1].argmax(1) == torch.arange(10)
    assert of_classes["without G"] == pytest.approx(100 * right.double().mean().item())
    own = matrices["without G"]["adversarial_images"]["without G"]
    other = matrices["with G"]["adversarial_images"]["without G"]
    assert own < other - 15
    assert (tmp_path / "transfer.png").exists()
