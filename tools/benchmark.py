"""`videokd bench` as a script: python tools/benchmark.py RUN|MODEL ... [options]."""

import sys

from videokd.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    sys.exit(main())
