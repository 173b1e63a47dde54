"""The table of schedulers in the documentation is the one that the code prints."""

import subprocess
import sys
from pathlib import Path

from couple.schedulers.listing import markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "schedulers.md"


def test_the_documented_table_is_up_to_date():
    assert markdown() in DOCUMENT.read_text(), "run `python -m couple.schedulers` and paste its table"


def test_the_table_is_printed_by_the_command():
    printed = subprocess.run([sys.executable, "-m", "couple.schedulers"], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == markdown()
