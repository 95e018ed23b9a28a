"""`make bench`: what the farm costs, measured beside what it cannot be faster than."""

import sys
from pathlib import Path

# The emulated machines of the kernel tests, found as pytest finds them (`pythonpath`).
sys.path.append(str(Path(__file__).parents[1] / "tests"))
