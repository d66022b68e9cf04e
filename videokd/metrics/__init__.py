"""Accuracies of one run, the comparison of two, and the predictions that both start from."""

from videokd.metrics.accuracy import (
    ClassReport,
    EvalMetrics,
    accuracy_report,
    wilson_interval_pct,
)
from videokd.metrics.bootstrap import NUM_RESAMPLES
from videokd.metrics.paired import PairedTest, paired_test
from videokd.metrics.predictions import Predictions, read_predictions

__all__ = [
    "NUM_RESAMPLES",
    "ClassReport",
    "EvalMetrics",
    "PairedTest",
    "Predictions",
    "accuracy_report",
    "paired_test",
    "read_predictions",
    "wilson_interval_pct",
]
