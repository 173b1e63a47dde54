"""Many jobs, each done once: by one process a device, by several machines on one folder, and again after a kill.

A folder holds what is known: a claim file for everyone who took a job up, and a manifest with a line of JSON for every
attempt that ended. A claim stands as long as its process lives; after that the next one may take the job up. A job in
the manifest as finished is never run again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import secrets
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import psutil
from tqdm.auto import tqdm

MANIFEST = "manifest.jsonl"
FINISHED, FAILED = "finished", "failed"
# How long without a look at the manifest, seconds.
_PAUSE = 0.5


@dataclass(frozen=True)
class Job:
    """One thing to do: `function(folder, device, **arguments)`, which returns an exit code.

    Attributes:
        name: of the job, and of its folder.
        function: importable by its name, as it may be called in another process.
        arguments: what JSON can hold; another process gets them, and a job is the same if they are.
    """

    name: str
    function: Callable[..., int]
    arguments: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that stand for what is done."""
        what = [f"{self.function.__module__}.{self.function.__qualname__}", dict(self.arguments)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Entry:
    """A line of the manifest: an attempt that ended.

    Attributes:
        job: its name.
        digest: of the job.
        run: of `run` in which it was made; a job is tried once in each.
        status: `FINISHED` or `FAILED`.
        seconds: how long it took.
        device: where it ran.
        error: what went wrong, one line.
    """

    job: str
    digest: str
    run: str
    status: str
    seconds: float
    device: str | None
    error: str | None = None


class Board:
    """The folder of some jobs: who has taken up what, and what came of it.

    Args:
        out: the folder; made if it is not there.
        jobs: with different names.
        run: names this run; a new one if None.

    Raises:
        ValueError: two jobs have one name, or the folder holds another job of the same name.
    """

    def __init__(self, out: Path, jobs: Sequence[Job], run: str | None = None) -> None:
        """Make the folder and compare what it holds."""
        self.out, self.jobs = out, list(jobs)
        self.run = run or secrets.token_hex(6)
        by_name = {job.name: job for job in jobs}
        if len(by_name) < len(self.jobs):
            raise ValueError("two jobs have one name, and would be one folder; name each differently.")
        for folder in ("claims", "logs"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        for entry in self.entries():
            if entry.job in by_name and entry.digest != by_name[entry.job].digest:
                raise ValueError(f"{out} has another {entry.job!r}, made from other settings; name another folder.")

    def entries(self) -> list[Entry]:
        """What the manifest says, a last line that is cut off left out."""
        path = self.out / MANIFEST
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            # A process that was killed while it wrote leaves half a line.
            with suppress(json.JSONDecodeError, TypeError):
                found.append(Entry(**json.loads(line)))
        return found

    def write(self, entry: Entry) -> None:
        """Add a line to the manifest; several processes may."""
        path = self.out / MANIFEST
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        line = ("" if whole else "\n") + json.dumps(vars(entry), ensure_ascii=False) + "\n"
        # One write to a file opened for appending is never mixed with another.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)

    def settled(self) -> dict[str, Entry]:
        """By name, the jobs that are finished or were tried in this run."""
        last = {entry.job: entry for entry in self.entries() if entry.status == FINISHED or entry.run == self.run}
        return {job.name: last[job.name] for job in self.jobs if job.name in last}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        statuses = [entry.status for entry in self.settled().values()]
        return len(statuses) == len(self.jobs) and set(statuses) <= {FINISHED}

    def claim(self, job: Job) -> bool:
        """Take a job up, unless it is settled or somebody else has; of several who try, one succeeds."""
        if job.name in self.settled():
            return False
        last, holder = self._holder(job)
        if holder is not None and self._alive(holder):
            return False
        mine = {**_identity(), "run": self.run}
        draft = self._claim(job, f"{mine['pid']}-{secrets.token_hex(4)}")
        draft.write_text(json.dumps(mine), encoding="utf-8")
        try:
            # Like O_EXCL, but the file has its contents from the first moment on.
            os.link(draft, self._claim(job, last + 1))
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        # Whoever had it may have finished it and gone in the meantime.
        return job.name not in self.settled()

    def held_by(self, pid: int) -> list[Job]:
        """The unsettled jobs that a process of this machine took up last."""
        settled, here = self.settled(), socket.gethostname()
        held = [(job, self._holder(job)[1]) for job in self.jobs if job.name not in settled]
        return [job for job, holder in held if holder and (holder["pid"], holder["host"]) == (pid, here)]

    def attempt(self, job: Job, device: str | None) -> Entry:
        """Do a job here and now; what it prints goes into a file in `logs`. Errors become part of the answer."""
        started, error = time.monotonic(), None
        with (self.out / "logs" / f"{job.name}.log").open("w", encoding="utf-8") as log:
            with redirect_stdout(log), redirect_stderr(log):
                try:
                    code = job.function(self.out / job.name, device, **job.arguments)
                    error = f"exit code {code}" if code else None
                except Exception as raised:
                    traceback.print_exc()
                    error = " ".join(f"{type(raised).__name__}: {raised}".split())
        return self.entry(job, device, error, time.monotonic() - started)

    def entry(self, job: Job, device: str | None, error: str | None, seconds: float = 0.0) -> Entry:
        """Return the line for an attempt of this run."""
        status = FINISHED if error is None else FAILED
        return Entry(job.name, job.digest, self.run, status, round(seconds, 2), device, error)

    def summary(self) -> str:
        """A table of all jobs, and where there is more to read."""
        settled = self.settled()
        width = max([len(job.name) for job in self.jobs], default=0)
        lines = []
        for job in self.jobs:
            entry = settled.get(job.name)
            if entry is None:
                holder = self._holder(job)[1]
                where = "" if holder is None else f", taken up by process {holder['pid']} on {holder['host']}"
                lines.append(f"{job.name:<{width}}  open{where}")
            else:
                time = f"{entry.seconds:9.1f} s  {entry.device or '':<8}"
                lines.append(f"{job.name:<{width}}  {entry.status:<8} {time}{entry.error or ''}".rstrip())
        count = sum(entry.status == FINISHED for entry in settled.values())
        return "\n".join([*lines, f"{count} of {len(self.jobs)} finished; {self.out / MANIFEST}, {self.out / 'logs'}"])

    def _claim(self, job: Job, which: int | str) -> Path:
        return self.out / "claims" / f"{job.name}.{which}"

    def _holder(self, job: Job) -> tuple[int, dict[str, Any] | None]:
        """How often a job was taken up, and who did it last. Claims are numbered, so that none is ever replaced."""
        number = 0
        while self._claim(job, number + 1).exists():
            number += 1
        return number, json.loads(self._claim(job, number).read_text(encoding="utf-8")) if number else None

    def _alive(self, holder: Mapping[str, Any]) -> bool:
        """Whether a claim stands. Of a process on another machine nothing is known, so it does."""
        here = _identity()
        if holder["host"] != here["host"]:
            return True
        if holder["pid"] == here["pid"]:
            return holder["run"] == self.run
        with suppress(psutil.Error):
            process = psutil.Process(holder["pid"])
            # Numbers of processes come again.
            return process.create_time() == holder["started"] and process.status() != psutil.STATUS_ZOMBIE
        return False


def run(board: Board, devices: Sequence[str | None], threads: int | None = None) -> None:
    """Do all jobs that are not settled, with one process for each device.

    Args:
        board: the jobs.
        devices: one for each process, as torch spells it.
        threads: of torch in each process; None leaves it to torch.
    """
    context = multiprocessing.get_context("spawn")

    def start(device: str | None) -> Any:
        process = context.Process(target=_work, args=(board.out, board.jobs, board.run, device, threads, os.getpid()))
        process.start()
        return process

    working = {start(device): device for device in devices[: len(board.jobs)]}
    with tqdm(total=len(board.jobs), unit="job", desc="sweep") as bar:
        try:
            while working:
                connection.wait([process.sentinel for process in working], _PAUSE)
                for process in [process for process in working if not process.is_alive()]:
                    device = working.pop(process)
                    lost = board.held_by(process.pid)
                    for job in lost:
                        board.write(board.entry(job, device, f"its process ended with exit code {process.exitcode}"))
                    if lost and process.exitcode:
                        working[start(device)] = device
                if new := len(board.settled()) - bar.n:
                    bar.update(new)
        finally:
            for process in working:
                process.terminate()
            for process in working:
                process.join()


def _work(out: Path, jobs: Sequence[Job], run: str, device: str | None, threads: int | None, parent: int) -> None:
    """Do what nobody else does, until nothing is left or the process that started this one is gone."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    board = Board(out, jobs, run)
    for job in jobs:
        if os.getppid() != parent:
            return
        if board.claim(job):
            board.write(board.attempt(job, device))


def _identity() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
