"""Whole studies made of the rooms below: the demo, later ablations and published tables."""
