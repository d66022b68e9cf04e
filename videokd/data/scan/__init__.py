"""What is really in the files: decoded whole (`decoded`), held against each reader (`inspection`),
each in a process of its own (`processes`).
"""

from videokd.data.scan.inspection import (
    ScanFailure,
    Scanned,
    ScanResult,
    inspect_video,
)
from videokd.data.scan.processes import scan, scan_video

__all__ = [
    "ScanFailure",
    "ScanResult",
    "Scanned",
    "inspect_video",
    "scan",
    "scan_video",
]
