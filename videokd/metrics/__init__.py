"""Accuracies of one run, comparisons of several, and the predictions that they start from."""

from videokd.metrics.accuracy import (
    ClassReport,
    EvalMetrics,
    accuracy_report,
    wilson_interval_pct,
)
from videokd.metrics.agreement import Agreement, agreement
from videokd.metrics.bootstrap import NUM_RESAMPLES, interval_text
from videokd.metrics.calibration import Calibration, calibration
from videokd.metrics.multi_label import (
    MultiLabelMetrics,
    average_precisions,
    mean_average_precision_pct,
    multi_label_predictions,
    multi_label_report,
)
from videokd.metrics.multiple import holm
from videokd.metrics.paired import LEVEL, PairedTest, p_text, paired_test
from videokd.metrics.predictions import Predictions, read_predictions, write_probabilities
from videokd.metrics.seeds import SeedTest, seed_test, smallest_detectable_pct

__all__ = [
    "LEVEL",
    "NUM_RESAMPLES",
    "Agreement",
    "Calibration",
    "ClassReport",
    "EvalMetrics",
    "MultiLabelMetrics",
    "PairedTest",
    "Predictions",
    "SeedTest",
    "accuracy_report",
    "agreement",
    "average_precisions",
    "calibration",
    "holm",
    "interval_text",
    "mean_average_precision_pct",
    "multi_label_predictions",
    "multi_label_report",
    "p_text",
    "paired_test",
    "read_predictions",
    "seed_test",
    "smallest_detectable_pct",
    "wilson_interval_pct",
    "write_probabilities",
]
