"""How long until the command line answers, and what does importing the package add to importing torch?

Each side is a fresh interpreter.

    python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import harness

COMMAND = str(Path(sys.executable).with_name("couple"))


def fresh(*command: str) -> harness.Program:
    """Run a command to its end."""
    return lambda: subprocess.run(command, check=True, capture_output=True)


def python(code: str) -> harness.Program:
    """Run code in an interpreter of its own."""
    return fresh(sys.executable, "-c", code)


def main() -> None:
    """Print one JSON line a question."""
    pairs = harness.options(__doc__, pairs=8).pairs
    rows = {
        "couple --help over an empty program": (python("pass"), fresh(COMMAND, "--help")),
        "import couple over an empty program": (python("pass"), python("import couple")),
        "couple.sample over import torch": (python("import torch"), python("import couple; couple.sample")),
    }
    for case, (base, other) in rows.items():
        ratio = harness.compare(base, other, pairs, 1)
        harness.report("startup", case, ratio, added=ratio.seconds[1] - ratio.seconds[0])


if __name__ == "__main__":
    main()
