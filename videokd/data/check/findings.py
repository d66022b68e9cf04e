"""What the check found, in words for people and keys for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]

Kind = Literal[
    "missing",
    "empty",
    "unreadable",
    "truncated",
    "changed",
    "disagrees",
    "reader",
    "leak_video",
    "leak_group",
    "leak_duplicate",
    "leak_content",
    "label_conflict",
    "incomplete",
    "unverified",
    "duplicate",
    "same_content",
    "class_without_videos",
    "imbalance",
]

TITLES: dict[Kind, tuple[Severity, str]] = {
    "missing": ("error", "files that are not there"),
    "empty": ("error", "files of 0 bytes"),
    "unreadable": ("error", "files that do not decode"),
    "truncated": ("error", "files that are shorter than when they were scanned"),
    "changed": ("error", "files that changed since they were scanned"),
    "disagrees": ("error", "files that decode to something else than the index says"),
    "reader": ("error", "files that the reader of the index does not read exactly"),
    "leak_video": ("error", "videos that are on two sides of a split themselves"),
    "leak_group": ("error", "groups with videos on two sides of a split"),
    "leak_duplicate": ("error", "the same file on two sides of a split"),
    "leak_content": ("error", "the same pictures in different files on two sides of a split"),
    "label_conflict": ("error", "the same video with different labels"),
    "incomplete": ("warning", "damaged files of which the intact start is indexed"),
    "unverified": ("warning", "files whose index row has no digest to compare with"),
    "duplicate": ("warning", "the same file more than once"),
    "same_content": ("warning", "the same pictures in different files"),
    "class_without_videos": ("warning", "classes without a video in a split"),
    "imbalance": ("warning", "splits whose largest class is far larger than its smallest"),
}
"""Kind -> severity and what it stands for. The text report lists them in this order."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be."""

    kind: Kind
    message: str
    """One line; it does not repeat the paths."""
    paths: tuple[Path, ...] = ()
    """The videos that it is about."""

    @property
    def severity(self) -> Severity:
        """An error makes the check fail; a warning does not."""
        return TITLES[self.kind][0]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "message": self.message,
            "paths": [str(path) for path in self.paths],
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Everything that one check of an index says."""

    index: Path
    num_videos: int
    quick: bool
    """Whether the files were only compared by size and digest, and not decoded."""
    findings: tuple[Finding, ...]
    """Errors first, in the order of `TITLES`."""
    statistics: dict[str, Any] = field(repr=False)
    """See `statistics_of`."""

    @property
    def num_errors(self) -> int:
        """Findings of severity error."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def num_warnings(self) -> int:
        """Findings of severity warning."""
        return len(self.findings) - self.num_errors

    @property
    def is_ok(self) -> bool:
        """No errors; there may be warnings."""
        return self.num_errors == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "index": str(self.index),
            "num_videos": self.num_videos,
            "quick": self.quick,
            "ok": self.is_ok,
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "findings": [finding.as_dict() for finding in self.findings],
            "statistics": self.statistics,
        }
