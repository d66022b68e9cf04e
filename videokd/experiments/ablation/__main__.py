"""One run in a process of its own: `python -m videokd.experiments.ablation JOB.json DEVICE JOBS`.

What `videokd reproduce ablation --jobs` starts; nobody types it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from videokd.errors import UserError
from videokd.experiments.ablation.work import run_from_file


def main() -> None:
    """One plain line on stderr for what kept the run from being done."""
    path, device, jobs = sys.argv[1:]
    try:
        run_from_file(Path(path), device=device, jobs=int(jobs))  # type: ignore[arg-type]
    except UserError as error:
        print(f"videokd: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
