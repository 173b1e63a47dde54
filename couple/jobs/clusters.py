"""Jobs on a Ray cluster: where machines come and go, or differ.

This process takes the jobs up (`couple.jobs.board`) and writes the manifest; Ray decides where each is done. All
machines must see the folder of results.
"""

from __future__ import annotations

import builtins
import os
import signal
import threading
from typing import Any

from tqdm.auto import tqdm

from couple.jobs.board import Board, Entry, Job


def run(board: Board, workers: int | None = None) -> None:
    """Do all jobs that are not settled, one for each GPU of the cluster at a time, or each core where there is none.

    Args:
        board: the jobs.
        workers: how many at a time where no cluster is named by RAY_ADDRESS and one is started on this machine.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("--ray needs Ray: pip install 'couple[ray]'.") from error
    local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
    started = not ray.is_initialized()
    # Ray puts its own in their place, and leaves them there.
    before = builtins.print, signal.getsignal(signal.SIGTERM)
    if started:
        ray.init(**local, log_to_driver=False)
    try:
        gpu = 1 if ray.cluster_resources().get("GPU") else 0
        attempt = ray.remote(num_cpus=1, num_gpus=gpu, max_retries=0)(_attempt)
        # Every job at once: Ray holds back what no machine is free for.
        pending = {attempt.remote(board.out.absolute(), job, board.run): job for job in board.jobs if board.claim(job)}
        with tqdm(total=len(board.jobs), unit="job", desc="sweep") as bar:
            bar.update(len(board.settled()))
            while pending:
                (done,), _ = ray.wait(list(pending))
                job = pending.pop(done)
                try:
                    entry = Entry(**ray.get(done))
                except RayError as error:
                    entry = board.entry(job, None, " ".join(f"{type(error).__name__}: {error}".split()))
                board.write(entry)
                bar.update()
    finally:
        if started:
            ray.shutdown()
            builtins.print = before[0]
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before[1])


def _attempt(out: Any, job: Job, run: str) -> dict[str, Any]:
    board = Board(out, [job], run)
    return vars(board.attempt(job, None))
