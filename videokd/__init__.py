"""videokd: distil large video networks into small ones, and prove what was gained."""

__version__ = "0.1.0"
