"""What the README shows is what happens: every Python block runs alone, and its numbers are the ones printed."""

import re
from pathlib import Path

import pytest

from benchmarks import laws

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^```text\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(BLOCKS.index(block) + 1))
def test_every_python_block_runs_on_its_own(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(block)


def test_the_first_example_prints_what_the_readme_shows(capsys):
    run(BLOCKS[0])
    assert capsys.readouterr().out == SHOWN[0]


def test_the_table_of_weight_laws_is_what_its_benchmark_measures():
    assert laws.table() in README


def test_every_file_the_readme_links_to_exists():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
