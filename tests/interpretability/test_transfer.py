import pytest
import torch

import data_tools
from discriminator import Discriminator
from inside_cnn.interpretability.transfer import transfer_section
from networks import as_network


def test_matrix_of_a_trained_and_an_untrained_network(trained, tmp_path):
    """Adversarial images fool the network they were made for."""
    test_set = data_tools.load_shapes()[1].first(50)
    torch.manual_seed(0)
    networks = [as_network(trained), as_network(Discriminator(width=4).eval(), "with G")]
    matrices = transfer_section(networks, test_set, tmp_path)
    clean = trained(data_tools.to_signed(test_set.images))[1].argmax(1) == test_set.labels
    accuracy = matrices["without G"]["baselines"]["test images"]
    assert accuracy == pytest.approx(100 * clean.double().mean().item())
    own = matrices["without G"]["adversarial_images"]["without G"]
    other = matrices["with G"]["adversarial_images"]["without G"]
    assert own < other - 15
    assert (tmp_path / "transfer.png").exists()
