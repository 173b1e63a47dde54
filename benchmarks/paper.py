"""Do coupled samples agree better than those of single models and of the baselines, and are they as good?

Makes every table and plot of `benchmarks/README.md` and copies them to `benchmarks/results/`, of sheets the first of
each kind. The same as `couple reproduce`; half an hour on two cores, two minutes with --quick.

    python benchmarks/paper.py --out out/reproduce
"""

import argparse
import shutil
from pathlib import Path

from couple.reproduce import command

RESULTS = Path(__file__).parent / "results"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", help="experiments")
    parser.add_argument("--out", type=Path, default=Path("out/reproduce"), help="where work is kept and goes on")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    command.run(quick=arguments.quick, only=arguments.only, out=arguments.out, workers=arguments.workers, tune=False)
    RESULTS.mkdir(exist_ok=True)
    for suffix in ("*.csv", "*.png", "*.md"):
        for file in arguments.out.glob(suffix):
            if not file.stem.endswith("-2"):
                shutil.copy(file, RESULTS)
