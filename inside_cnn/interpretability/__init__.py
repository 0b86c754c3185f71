"""Interpretability of image classifiers, as a library.

from inside_cnn.interpretability import feature, load_network, optimize
"""

from inside_cnn.interpretability.models import load_network
from inside_cnn.interpretability.network import Network
from inside_cnn.interpretability.objectives import (
    Objective,
    channel,
    class_logit,
    direction,
    diversity,
    feature,
    neuron,
    optimize,
)
