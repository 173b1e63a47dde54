"""The package as a whole: its public names and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import couple


def test_every_public_name_can_be_had():
    assert {name for name in couple.__all__ if getattr(couple, name) is None} == set()
    assert set(couple.__all__) <= set(dir(couple))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'couple' has no attribute 'nothing'"):
        _ = couple.nothing


def test_importing_couple_and_its_tensor_parts_brings_in_neither_diffusers_nor_transformers():
    code = """
import sys, couple
couple.Trajectory, couple.pair, couple.ExactDenoiser, couple.weights, couple.energies, couple.coupling
sys.exit(bool({"diffusers", "transformers"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_couple_alone_brings_in_no_torch():
    code = "import sys, couple; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_module_opens_with_its_subject():
    for path in Path(couple.__file__).parent.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
