"""Which logged fields are drawn together: {title of the panel: {field: name of its line}}."""

CLASSIFIER = {
    "cross-entropy": {"train_loss": "train (augmented)", "test_loss": "test"},
    "accuracy": {"train_accuracy": "train (augmented)", "test_accuracy": "test"},
    "learning rate": {"lr": "lr"},
}


GAN = {
    "critic gap: mean D(real) - mean D(fake)": {"critic_gap": "gap"},
    "gradient of the score at x_hat": {"gradient_norm": "mean norm", "gradient_penalty": "penalty"},
    "losses": {"discriminator_loss": "discriminator", "generator_loss": "generator"},
    "cross-entropy of the class head": {"class_loss_real": "real", "class_loss_fake": "fake"},
    "accuracy of the class head": {
        "class_accuracy_real": "real, train",
        "class_accuracy_fake": "fake",
        "test_accuracy": "real, test",
    },
    "Frechet distance, 2,000 samples": {"frechet_distance": "average"},
    "class consistency": {"class_consistency": "samples, by the judge"},
    "learning rate": {"lr": "lr"},
    "images per second": {"images_per_second": "speed"},
}
