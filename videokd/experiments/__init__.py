"""Whole studies made of the rooms below: the demo, folds, the ablation, published tables."""
