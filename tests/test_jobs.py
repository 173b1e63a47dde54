"""Jobs are done once each, whoever is killed, and by whoever is there."""

import builtins
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from couple.jobs import board as jobs
from couple.jobs import clusters
from couple.jobs.board import FAILED, FINISHED, Board, Job


def note(folder, device, text, once=None, seconds=0.0):
    """Write a line for every time that it is called; whoever makes the file `once` first is killed."""
    folder.mkdir(exist_ok=True)
    with (folder / "calls").open("a") as file:
        file.write(f"{text} {device} {os.getpid()}\n")
    if once is not None:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
    time.sleep(seconds)
    print("done", text)
    return 0


def refuse(folder, device, how):
    if how == "code":
        return 3
    raise ValueError("not\nthis one")


def die(folder, device):
    os.kill(os.getpid(), signal.SIGKILL)


def notes(count, **more):
    return [Job(f"{k}", note, {"text": f"job {k}", **more}) for k in range(count)]


def calls(out, name):
    return (out / name / "calls").read_text().splitlines()


def test_every_job_is_done_once_by_one_process_a_device(tmp_path):
    board = Board(tmp_path, notes(6, seconds=0.2))
    jobs.run(board, ["cpu", "meta"], 1)
    assert board.finished
    done = [calls(tmp_path, str(k)) for k in range(6)]
    assert all(len(lines) == 1 for lines in done)
    workers = {(line.split()[2], line.split()[3]) for (line,) in done}
    assert {device for device, _ in workers} == {"cpu", "meta"} and len(workers) == 2
    assert (tmp_path / "logs" / "3.log").read_text() == "done job 3\n"
    assert [entry.status for entry in board.entries()] == [FINISHED] * 6
    # Again, by other processes: nothing is left to do.
    jobs.run(again := Board(tmp_path, notes(6, seconds=0.2)), [None])
    assert again.finished and all(len(calls(tmp_path, str(k))) == 1 for k in range(6))
    assert len(again.entries()) == 6
    assert again.summary().splitlines()[-1] == f"6 of 6 finished; {tmp_path / 'manifest.jsonl'}, {tmp_path / 'logs'}"


def test_failures_are_told_and_tried_again_in_the_next_run_only(tmp_path):
    work = [Job("bad", refuse, {"how": "raise"}), Job("worse", refuse, {"how": "code"}), *notes(1)]
    board = Board(tmp_path, work)
    jobs.run(board, [None])
    assert not board.finished
    found = {entry.job: (entry.status, entry.error) for entry in board.entries()}
    assert found == {
        "bad": (FAILED, "ValueError: not this one"),
        "worse": (FAILED, "exit code 3"),
        "0": (FINISHED, None),
    }
    assert "bad" in board.summary() and "ValueError: not this one" in board.summary()
    assert "Traceback" in (tmp_path / "logs" / "bad.log").read_text()
    jobs.run(Board(tmp_path, work), [None])
    assert sorted(entry.job for entry in board.entries()) == ["0", "bad", "bad", "worse", "worse"]


def test_a_job_that_kills_its_process_costs_nobody_else_and_is_named(tmp_path):
    board = Board(tmp_path, [Job("deadly", die, {}), *notes(2)])
    jobs.run(board, [None])
    found = {entry.job: (entry.status, entry.error) for entry in board.entries()}
    assert found["deadly"] == (FAILED, "its process ended with exit code -9")
    assert found["0"] == found["1"] == (FINISHED, None)


def test_a_sweep_that_was_killed_goes_on_where_it_was(tmp_path):
    program = (
        "from pathlib import Path; from couple.jobs import board as jobs; from tests.test_jobs import notes\n"
        "if __name__ == '__main__': jobs.run(jobs.Board(Path('OUT'), notes(4, seconds=0.7)), [None])\n"
    )
    script = tmp_path / "sweep.py"
    out = tmp_path / "out"
    script.write_text(program.replace("OUT", str(out)))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, script], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out / "1" / "calls").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # in the middle of the second job
    process.wait()
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"job": "2", "sta')  # and of a line
    board = Board(out, notes(4, seconds=0.7))
    assert sorted(board.settled()) == ["0"]
    jobs.run(board, [None])
    assert board.finished
    assert [len(calls(out, str(k))) for k in range(4)] == [1, 2, 1, 1]
    assert [entry.job for entry in board.entries()] == ["0", "1", "2", "3"]


def claims(out, run):
    board = Board(out, notes(20), run)
    won = [job.name for job in board.jobs if board.claim(job)]
    time.sleep(1.0)  # alive until everyone has tried
    return won


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_that_take_a_job_up_one_succeeds(tmp_path, stale):
    context = multiprocessing.get_context("spawn")
    if stale:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert len(pool.submit(claims, tmp_path, "dead").result()) == 20
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        won = [name for names in pool.map(claims, [tmp_path] * 4, "abcd") for name in names]
    assert sorted(won) == sorted(str(k) for k in range(20))


def test_claims_stand_while_their_process_lives_and_on_other_machines(tmp_path):
    board = Board(tmp_path, notes(3), "now")
    (first, second, third) = board.jobs
    assert board.claim(first) and not board.claim(first)
    # A run that this process made before is over.
    assert Board(tmp_path, notes(3), "later").claim(first)
    holder = jobs._identity()
    for job, other in ((second, {"host": "elsewhere"}), (third, {"pid": 1, "started": 0.0})):
        (tmp_path / "claims" / f"{job.name}.1").write_text(json.dumps({**holder, **other, "run": "before"}))
    assert not board.claim(second)
    assert "1  open, taken up by process" in board.summary() and "on elsewhere" in board.summary()
    assert board.claim(third)  # the number of the process came again


def test_what_was_finished_by_one_who_has_gone_is_not_done_again(tmp_path, monkeypatch):
    board = Board(tmp_path, notes(1))
    (job,) = board.jobs
    holder = {**jobs._identity(), "pid": 2**22 + 1, "run": "before"}

    def finished_meanwhile(self, found):
        self.write(Board(tmp_path, [job], "before").entry(job, None, None))
        return False

    (tmp_path / "claims" / "0.1").write_text(json.dumps(holder))
    monkeypatch.setattr(Board, "_alive", finished_meanwhile)
    assert not board.claim(job)


def test_another_job_of_the_same_name_is_refused(tmp_path):
    jobs.run(Board(tmp_path, notes(1)), [None])
    with pytest.raises(ValueError, match="has another '0', made from other settings; name another folder"):
        Board(tmp_path, notes(1, seconds=1.0))
    with pytest.raises(ValueError, match="two jobs have one name"):
        Board(tmp_path, notes(1) * 2)


def test_two_workers_of_a_ray_cluster_share_the_jobs(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'couple[ray]'")
    work = [*notes(4, seconds=0.5), Job("bad", refuse, {"how": "raise"}), Job("deadly", die, {})]
    board = Board(tmp_path, work)
    before = builtins.print, signal.getsignal(signal.SIGTERM)
    clusters.run(board, workers=2)
    assert (builtins.print, signal.getsignal(signal.SIGTERM)) == before
    found = {entry.job: (entry.status, entry.error) for entry in board.entries()}
    assert {found[str(k)] for k in range(4)} == {(FINISHED, None)}
    assert found["bad"] == (FAILED, "ValueError: not this one")
    assert found["deadly"][0] == FAILED and "WorkerCrashedError" in found["deadly"][1]
    processes = {calls(tmp_path, str(k))[0].split()[3] for k in range(4)}
    assert len(processes) == 2 and str(os.getpid()) not in processes
    clusters.run(again := Board(tmp_path, work[:4]), workers=2)
    assert again.finished and all(len(calls(tmp_path, str(k))) == 1 for k in range(4))


def test_without_ray_its_option_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'couple\[ray\]'"):
        clusters.run(Board(tmp_path, notes(1)))
