"""Bad command lines are told in one sentence with the fix, before anything is loaded or written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import couple
from couple.cli import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"at least two prompts, got 0; try: couple image"),
        (["a"], r"at least two prompts, got 1; try: couple image"),
        (["a", "b", "c", "--graph", "pair"], r"--graph pair takes two prompts, got 3; try --graph complete"),
        (["a", "b", "--graph", "ring"], r"--graph ring is unknown; choose from pair, chain"),
        (
            ["a", "b", "--law", "linear"],
            r"--law linear is unknown; choose from constant, rate, relax, implicit",
        ),
        (["a", "b", "--dtype", "int8"], r"--dtype int8 is unknown; choose from float32"),
        (["a", "b", "--weight", "nan"], r"--weight nan must be a finite number, 0 or more; try"),
        (["a", "b", "--weight", "-0.5"], r"--weight -0.5 must be a finite number, 0 or more; try"),
        (["a", "b", "--weight", "much"], r"'--weight': Input should be a valid number"),
        (["a", "b", "--guidance", "inf"], r"--guidance inf must be a finite number; try"),
        (["a", "b", "--until", "0"], r"--until 0 must be more than 0 and at most 1; try --until 0.2"),
        (["a", "b", "--until", "nan"], r"--until nan must be more than 0 and at most 1; try --until 0.2"),
        (["a", "b", "--steps", "0"], r"--steps 0 must be 1 or more; try --steps"),
        (["a", "b", "--max-batch", "0"], r"--max-batch 0 must be 1 or more; try"),
        (["a", "b", "--seed", "-1"], r"--seed -1 must be 0 or more; try"),
        (["a", "b", "--seed", str(2**63)], r"is too large; seeds end at 2\*\*63"),
        (
            ["a", "b", "--size", "big"],
            r"--size big is no size; write pixels as 64, or width x height as 96x64",
        ),
        (["a", "b", "--size", "0"], r"--size 0 is empty; .* e.g. --size 64"),
        (["a", "b", "--strength", "1"], r"No such option: --strength"),
        (["a", "b", "--memory", "auto", "--budget", "12"], r"--budget 12 is no size; write it as 12GB or 8GiB"),
        (["a", "b", "--fp8"], r"--fp8 goes with --memory; try --memory auto --fp8"),
    ],
)
def test_a_bad_command_line_is_told_in_a_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["image", *arguments]) == 2
    told = capsys.readouterr()
    assert re.search(rf"^couple: .*{message}", told.err)
    assert told.err.count("\n") == 1 and not told.out
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_told(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"couple {couple.__version__}\n"


def test_help_and_bad_command_lines_need_no_torch():
    code = """
import sys
from couple.cli import run
run(["--help"]), run(["image", "--help"]), run(["image", "one"])
sys.exit(bool({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--weight" in done.stdout


def test_the_installed_command_leaves_with_the_exit_code():
    done = subprocess.run([Path(sys.executable).parent / "couple", "image", "one"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
