"""How long a batch takes, what the device's ceilings allow, and the whole path from a file."""

from videokd.bench.latency.measure import Measurement, in_rounds, measure_latency
from videokd.bench.latency.session import Session
from videokd.bench.latency.settings import BenchSetting, in_setting, settings_of, usable_device
from videokd.bench.latency.timing import Progress

__all__ = [
    "BenchSetting",
    "Measurement",
    "Progress",
    "Session",
    "in_rounds",
    "in_setting",
    "measure_latency",
    "settings_of",
    "usable_device",
]
