"""First weights of a network: from a file of any published layout, or of the other dimension."""

from videokd.models.weights.classes import published_classes, refuse_other_classes
from videokd.models.weights.convert import Convert, deflate, inflate
from videokd.models.weights.download import place_of, published_weights
from videokd.models.weights.layouts import Layout
from videokd.models.weights.load import LoadReport, load_weights

__all__ = [
    "Convert",
    "Layout",
    "LoadReport",
    "deflate",
    "inflate",
    "load_weights",
    "place_of",
    "published_classes",
    "published_weights",
    "refuse_other_classes",
]
