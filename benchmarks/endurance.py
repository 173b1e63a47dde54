"""Does a process that samples again and again grow?

Makes many small runs, coupled and alone, some of which fail, and writes what a process can lose at every tenth of them:
memory (RSS, and what Python allocated), objects of this package, hooked classes, threads and open files.

    python benchmarks/endurance.py --runs 1000 --out endurance.csv
"""

import argparse
import csv
import gc
import sys
import tempfile
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import psutil
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import nn

import couple


class Net(nn.Module):
    """A network of one layer."""

    def __init__(self) -> None:
        """Make the layer."""
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Return something of the shape of `x`, (B, 64)."""
        return self.linear(x).tanh()


class Failing(couple.DenoiserPipeline):
    """A pipeline that raises after its first steps."""

    def _predict(self, state: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        if timestep == self.scheduler.timesteps[2]:
            raise ArithmeticError("meant to fail")
        return super()._predict(state, timestep)


def one_run(number: int, net: Net, folder: Path) -> None:
    """Sample two trajectories in one of the ways in which that can be done, and end."""
    kinds = (DDPMScheduler, UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler)
    schedulers = [kinds[(number + k) % 3]() for k in (0, 1)]
    fails = number % 5 == 4
    pipelines = [couple.DenoiserPipeline(net, schedulers[0])]
    pipelines.append((Failing if fails else couple.DenoiserPipeline)(net, schedulers[1]))
    a, b = (
        couple.Trajectory(
            pipeline, name=f"{k}", shape=(1, 64), num_inference_steps=4, generator=torch.Generator().manual_seed(k)
        )
        for k, pipeline in enumerate(pipelines)
    )
    checkpoint = couple.Checkpoint(folder / "run") if number % 2 else None
    weight = couple.weights.relax(0.1)
    try:
        couple.sample([a, b], couple.pair(a, b, weight=weight), checkpoint=checkpoint, progress=False)
    except ArithmeticError:
        if checkpoint is not None:
            checkpoint.remove()


def counted() -> dict[str, int]:
    """Count what a run may not leave behind."""
    gc.collect()
    kinds = Counter(str(type(thing).__module__).partition(".")[0] for thing in gc.get_objects())
    return {
        "objects of couple": kinds["couple"],
        "objects of diffusers": kinds["diffusers"],
        "hooked classes": sum(len(cls.__subclasses__()) for cls in (Net, DDPMScheduler, UniPCMultistepScheduler)),
        "threads": threading.active_count(),
        "open files": psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0,
    }


def main() -> None:
    """Make the runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=None, help="CSV file; standard output without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    net = Net()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        for number in range(arguments.runs + 1):
            if number % max(1, arguments.runs // 10) == 0:
                counts = counted()
                memory = psutil.Process().memory_info().rss // 1024
                rows.append(
                    {"runs": number, "RSS KiB": memory, "Python KiB": tracemalloc.get_traced_memory()[0] // 1024}
                )
                rows[-1] |= counts
            if number < arguments.runs:
                one_run(number, net, Path(folder))
    with arguments.out.open("w", newline="") if arguments.out else sys.stdout as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
