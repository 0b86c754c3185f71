"""Networks as the sections of visualization.py take them."""

from inside_cnn.interpretability.network import Network


def as_network(model, name="without G"):
    """A network as if its weights had been loaded, without metadata."""
    return Network(name, model, path="somewhere")
