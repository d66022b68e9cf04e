"""The ablation: a ladder of controls, placebos and distilled students, tuned alike and told whole.

`ladder` is what there is to run, `plan` turns it into runs, `runner` does them, `tuning` chooses on
validation videos, `records` keeps what came out, `evidence` and `report` say what it means.
"""

from videokd.experiments.ablation.listing import format_rows, list_rows
from videokd.experiments.ablation.study import Done, Request, run_ablation

__all__ = ["Done", "Request", "format_rows", "list_rows", "run_ablation"]
