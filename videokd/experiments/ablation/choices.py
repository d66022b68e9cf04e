"""What was chosen on validation videos, frozen in a file that is committed.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from videokd.errors import UserError
from videokd.files import read_text, write_text

WHOLE = "all"
"""Stands for the fold in a study that has none."""

_HEADER = """\
# Settings that were chosen on validation videos by `videokd reproduce ablation --stage tune`, out
# of the trials in results/ablation/tuning.jsonl. The stage `run` reads them; nobody edits them.
"""


@dataclass(frozen=True)
class Choice:
    """What a row is trained with."""

    over: dict[str, Any]
    """Dotted path -> value."""
    trial: int | None
    """Which of the row's trials it was; None where the value was worked out."""
    top1_pct: float | None
    """On validation videos, mean over the runs of the trial."""
    nll: float | None
    """Likewise, mean negative log-likelihood; it decided between equal top-1."""
    digest: str
    """Of the runs that it was chosen from."""


class Choices:
    """Study -> row -> fold -> choice."""

    def __init__(self, path: Path) -> None:
        """Read the file, if it is there.

        Raises:
            UserError: another file.
        """
        self.path = path
        self._chosen: dict[str, dict[str, dict[str, Choice]]] = {}
        if not path.is_file():
            return
        try:
            plain = yaml.safe_load(read_text(path)) or {}
            for study, rows in plain.items():
                for row, folds in rows.items():
                    for fold, choice in folds.items():
                        self._put(study, row, str(fold), Choice(**choice))
        except (yaml.YAMLError, AttributeError, TypeError):
            known = ", ".join(one.name for one in fields(Choice))
            raise UserError(
                f"{path}: not choices of ours (study, row, fold, then {known}); bring the file "
                "back, or remove it and run the stage tune"
            ) from None

    def find(self, study: str, row: str, fold: str | None) -> Choice | None:
        """What was chosen; None where nothing was yet."""
        return self._chosen.get(study, {}).get(row, {}).get(fold or WHOLE)

    def add(self, study: str, row: str, fold: str | None, choice: Choice) -> None:
        """Keep a choice, and write the file."""
        self._put(study, row, fold or WHOLE, choice)
        plain = {
            one: {
                name: {f: asdict(choice) for f, choice in sorted(folds.items())}
                for name, folds in rows.items()
            }
            for one, rows in self._chosen.items()
        }
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None)
        write_text(self.path, _HEADER + text)

    def _put(self, study: str, row: str, fold: str, choice: Choice) -> None:
        self._chosen.setdefault(study, {}).setdefault(row, {})[fold] = choice
