"""Settings and logged fields of older versions, in the names of this version."""

# Settings that older runs lack: their value in those runs.
ADDED = {
    "flip": "random",
    "gp_batch_shrink": 1,
    "latent_dim": 100,
    "hold_out": 0,
    "adversarial_loss": "wasserstein",
    "critic": "full",
    "fixed_generator": None,
}
# Settings that no longer exist: whether the run is the same without them.
DELETED = {
    "gp_every": lambda settings: settings["gp_every"] == 1,
    "normalise": lambda settings: settings["normalise"] or settings["optimizer"] != "muon",
}
RENAMED = {"hole": "cutout", "kernel_lr": "muon_lr"}  # settings and logged fields


def renamed(record):
    """The settings of a run, or a record of its log, in the names of this version."""
    record = {RENAMED.get(name, name): value for name, value in record.items()}
    if record.get("schedule") == "triangle":
        record["schedule"] = "triangular"
    return record


def without_deleted(settings):
    """The settings of a run without those that are DELETED and changed nothing."""
    return {
        name: value
        for name, value in settings.items()
        if name not in DELETED or not DELETED[name](settings)
    }
