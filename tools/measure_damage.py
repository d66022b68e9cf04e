"""How much damage no decoder notices: python tools/measure_damage.py [COPIES] [PROCESSES]."""

import sys
import tempfile
from pathlib import Path

from videokd.data.damage import damage_table, judge_mutants
from videokd.progress import show_progress

if __name__ == "__main__":
    count, num_processes = (*map(int, sys.argv[1:3]), *(2000, 2)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as folder, show_progress("scan damaged copies") as report:
        judged = judge_mutants(
            Path(folder),
            count=count,
            num_processes=num_processes,
            on_progress=lambda done, total: report(done, total, ""),
        )
    print(damage_table(judged))
    for one in judged:
        if one.reason.startswith(("crash", "hang")):
            print(f"{one.path.name}: {one.reason}")
