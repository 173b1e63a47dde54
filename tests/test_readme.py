"""What the README shows works, and says what comes out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"(<!-- not run:.*?-->\n)?```python\n(.*?)```", README, flags=re.S)
COMMANDS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.S))


@pytest.mark.parametrize("code", [code for excused, code in BLOCKS if not excused])
def test_a_python_block_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_first_example_prints_what_it_says(capsys):
    code = BLOCKS[0][1]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == code.rstrip().rsplit("# ", 1)[1]


def test_a_block_that_needs_weights_is_python_all_the_same():
    excused = [code for reason, code in BLOCKS if reason]
    assert len(excused) == 1
    compile(excused[0], "README.md", "exec")


def test_the_make_targets_and_files_it_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", COMMANDS):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / path).exists(), path


def test_its_scheduler_claim_and_its_ci_line_are_those_of_the_files():
    assert "make lint test" in (ROOT / ".ci" / "run").read_text()
