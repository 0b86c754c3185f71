"""Which logged fields are plotted together, and which are printed.

curves: {title of a panel: {field: name of its line}}; line: {field: its format}, the columns of the
line that is printed after an epoch.
"""

from types import SimpleNamespace

LEARNING_RATES = {"lr": "lr", "muon_lr": "muon_lr"}

CLASSIFIER = SimpleNamespace(
    curves={
        "cross-entropy": {"train_loss": "train (augmented)", "test_loss": "test"},
        "accuracy": {"train_accuracy": "train (augmented)", "test_accuracy": "test"},
        "learning rate": LEARNING_RATES,
    },
    line={
        "train_loss": "train loss {:.3f}",
        "train_accuracy": "train {:5.2f} %",
        "test_accuracy": "test {:5.2f} %",
    },
)

GAN = SimpleNamespace(
    curves={
        "critic gap: mean D(real) - mean D(fake)": {"critic_gap": "gap"},
        "gradient of the score at x_hat": {
            "gradient_norm": "mean norm",
            "gradient_penalty": "penalty",
        },
        "losses": {"discriminator_loss": "discriminator", "generator_loss": "generator"},
        "cross-entropy of the class head": {"class_loss_real": "real", "class_loss_fake": "fake"},
        "accuracy of the class head": {
            "class_accuracy_real": "real, train",
            "class_accuracy_fake": "fake",
            "test_accuracy": "real, test",
        },
        "Frechet distance, 2,000 samples": {"frechet_distance": "average"},
        "class consistency": {"class_consistency": "samples"},
        "learning rate": LEARNING_RATES,
        "images per second": {"images_per_second": "speed"},
    },
    line={
        "critic_gap": "critic gap {:6.2f}",
        "gradient_norm": "gradient norm {:5.2f}",
        "test_accuracy": "test {:5.2f} %",
        "class_accuracy_fake": "fake accuracy {:6.2f} %",
        "frechet_distance": "Frechet {:6.1f}",
    },
)
