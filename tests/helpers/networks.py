"""Networks as the sections of visualization.py are handed them."""

from inside_cnn.interpretability.trained_networks import Network


def as_network(model, name="without G"):
    """The model as if its weights had been loaded, with nothing told beside them."""
    return Network(
        name=name,
        model=model,
        path="somewhere",
        digest="digest",
        metadata={},
        start=None,
        class_names=None,
    )
