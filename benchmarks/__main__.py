"""``python -m benchmarks``: the benchmarks of a checkout. Installed users have the same as ``cowstore bench``."""

from __future__ import annotations

import sys

from cowstore.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
