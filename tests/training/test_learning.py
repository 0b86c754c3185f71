"""Both trainings learn, within seconds, on easy sets.

The limits are well below the worst of four seeds.
"""

import templates
import train_discriminator
import train_gan
from compare import records

CPU = ["--device", "cpu", "--precision", "fp32"]
# Learning rates and loss weights with which a small network learns in a few steps.
SHORT_GAN = [
    *(*CPU, "--dataset", "cifar10", "--augmentation", "flip", "--width", 8, "--batch_size", 40),
    *("--lr", 0.02, "--gp_weight", 10, "--g_class_weight", 10, "--d_fake_class_weight", 1),
    *("--ema_decay", 0.9),
]


def test_the_classifier_learns_the_shapes(run_main, tmp_path):
    """250 steps. Four seeds: 73.5 to 93.8 %; a linear classifier reaches about half."""
    flags = ["--dataset", "shapes", "--width", 16, "--limit_train", 8000, "--limit_test", 1000]
    flags += ["--batch_size", 32, "--epochs", 1, "--output_dir", tmp_path / "run"]
    assert run_main(train_discriminator, *CPU, *flags)[0] == 0
    (line,) = records(tmp_path / "run")
    assert line["test_accuracy"] > 55


def test_both_networks_of_the_gan_learn(run_main, tmp_path, monkeypatch):
    """200 steps. Four seeds: 100 % of the test images, 36 to 81 % of the fakes.

    The discriminator predicts the label of a fake only if the generator distinguishes the classes;
    by chance it is correct in 10 %.
    """
    templates.write(tmp_path / "data", monkeypatch)
    flags = ["--epochs", 8, "--data_dir", tmp_path / "data", "--output_dir", tmp_path / "run"]
    assert run_main(train_gan, *SHORT_GAN, *flags)[0] == 0
    last = records(tmp_path / "run")[-1]
    assert last["test_accuracy"] > 60
    assert last["class_accuracy_fake"] > 20
    assert last["class_accuracy_real"] > 60
