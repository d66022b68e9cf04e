"""The engine room: the training loop and evaluation."""
