"""The `couple` command: what it is called with, and how it says that something is wrong.

Mistakes are told in one sentence on standard error. The exit code is 2 when the command line is at fault, 1
when the run is, 130 after Ctrl-C.
"""

import sys

import typer
from typer.exceptions import TyperException

from couple.cli.edit import edit
from couple.cli.image import image
from couple.cli.reproduce import reproduce
from couple.cli.video import video

# What typer makes of a KeyboardInterrupt.
INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command()(image)
app.command()(video)
app.command()(edit)
app.command()(reproduce)


@app.callback()
def _root() -> None:
    """Sample several pictures or videos at once and let them pull on each other while they denoise."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code, having told any mistake on standard error."""
    try:
        code = app(arguments, prog_name="couple", standalone_mode=False) or 0
    except TyperException as error:
        if message := error.format_message():
            print(f"couple: {message}", file=sys.stderr)
        return error.exit_code
    except (ValueError, NotImplementedError, FloatingPointError, ImportError, OSError) as error:
        print(f"couple: {error}", file=sys.stderr)
        return 1
    if code == INTERRUPTED:
        print("couple: interrupted; nothing was written.", file=sys.stderr)
    return code
