"""Bad command lines of `couple video` are told in one sentence with the fix, before anything is loaded or written."""

import re
import subprocess
import sys

import pytest

from couple.cli import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], r'at least two prompts, got 1; try: couple video "a pink star circles"'),
        (["a", "b", "c", "--graph", "pair"], r"--graph pair takes two prompts, got 3; try --graph complete"),
        (["a", "b", "--law", "linear"], r"--law linear is unknown; choose from constant, rate, relax, implicit"),
        (["a", "b", "--weight", "nan"], r"--weight nan must be a finite number, 0 or more; try"),
        (["a", "b", "--until", "0"], r"--until 0 must be more than 0 and at most 1; try"),
        (["a", "b", "--seed", str(2**63)], r"is too large; seeds end at 2\*\*63"),
        (["a", "b", "--size", "big"], r"--size big is no size; write pixels as 64"),
        (["a", "b", "--frames", "0"], r"--frames 0 must be 1 or more; try --frames 1"),
        (["a", "b", "--frames", "few"], r"'--frames': Input should be a valid integer"),
        (["a", "b", "--fps", "0"], r"--fps 0 must be more than 0 and at most 100; try --fps 16"),
        (["a", "b", "--fps", "nan"], r"--fps nan must be more than 0 and at most 100; try --fps 16"),
        (["a", "b", "--fps", "inf"], r"--fps inf must be more than 0 and at most 100; try --fps 16"),
    ],
)
def test_a_bad_command_line_is_told_in_a_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["video", *arguments]) == 2
    told = capsys.readouterr()
    assert re.search(rf"^couple: .*{message}", told.err)
    assert told.err.count("\n") == 1 and not told.out
    assert list(tmp_path.iterdir()) == []


def test_help_and_bad_command_lines_need_neither_torch_nor_ffmpeg():
    code = """
import sys
from couple.cli import run
run(["video", "--help"]), run(["video", "one"])
sys.exit(bool({"torch", "diffusers", "transformers", "imageio"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--frames" in done.stdout and "--fps" in done.stdout
