"""Bad command lines of `couple edit` are told in one sentence with the fix, before anything is loaded or written."""

import re
import subprocess
import sys

import pytest

from couple.cli import run

PROMPT = ["--prompt", "x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--editor", "paint"], r"--editor paint is unknown; choose from controlnet, instruct"),
        (["--multiview", "zero123", *PROMPT], r"--multiview zero123 is unknown; choose from seva, mvdream"),
        (["--editor", "controlnet", "--condition", "pose"], r"--condition pose is unknown; choose from canny, depth"),
        (["--editor", "img2img", "--base", "sd3", *PROMPT], r"--base sd3 is unknown; choose from sd21, sd15"),
        (["--law", "linear"], r"--law linear is unknown"),
        (["--condition", "canny"], r"--condition goes with --editor controlnet, not with instruct"),
        (["--base", "sd15", *PROMPT], r"--base goes with --editor controlnet or img2img"),
        (["--environment", "a.hdr"], r"--environment goes with --editor neural-gaffer"),
        (["--background", "a.png"], r"--background goes with --editor ic-light"),
        (["--strength", "0.5"], r"--strength goes with --editor img2img"),
        (
            ["--editor", "ic-light", "--move", "1,0,0", *PROMPT],
            r"--move goes with --editor instruct or img2img or magic",
        ),
        (["--editor", "img2img"], r"img2img is told what to make; add e.g. --prompt"),
        (["--multiview", "seva"], r"instruct is told what to make; add e.g. --prompt"),
        (["--multiview", "mvdream", *PROMPT], r"say what the views show, e.g. --multiview-prompt"),
        (["--editor", "magic-fixup"], r"say where to, e.g. --move 0.2,0,0 or --turn 30"),
        (["--editor", "neural-gaffer"], r"add --environment light.hdr"),
        (["--editor", "img2img", "--strength", "0", *PROMPT], r"--strength 0 must be more than 0 and at most 1"),
        (["--move", "1,2"], r"--move 1,2 is no way to go; write three numbers"),
        (["--move", "a,b,c"], r"--move a,b,c is no way to go"),
        (["--move", "nan,0,0"], r"--move nan,0,0 is no way to go"),
        (["--turn", "inf"], r"--turn inf must be a finite number"),
        (["--multiview-guidance", "nan"], r"--multiview-guidance nan must be a finite number"),
        (["--views", "a"], r"--views a are no views; write 0-7"),
        (["--views", "4-2"], r"--views 4-2 are no views"),
        (["--views", "1,1"], r"--views 1,1 must name two views or more, each once"),
        (["--views", "3"], r"--views 3 must name two views or more"),
        (["--views", "0-3", "--reference", "5"], r"--reference 5 is not among --views"),
        (["--reference", "-1"], r"--reference -1 must be 0 or more"),
        (["--steps", "0"], r"--steps 0 must be 1 or more"),
        (["--size", "big"], r"--size big is no size"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_bad_command_line_is_told_in_a_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["edit", *arguments]) == 2
    told = capsys.readouterr()
    assert re.search(rf"^couple: .*{message}", told.err)
    assert told.err.count("\n") == 1 and not told.out
    assert list(tmp_path.iterdir()) == []


def test_help_and_bad_command_lines_need_no_torch():
    code = """
import sys
from couple.cli import run
run(["edit", "--help"]), run(["edit", "--editor", "paint"])
sys.exit(bool({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--multiview" in done.stdout
