"""The `couple` command: what it is called with, and how it says that something is wrong.

Mistakes are told in one sentence on standard error. The exit code is 2 when the command line is at fault, 1
when the run is, 3 when numbers ran away, 130 after Ctrl-C, 143 after SIGTERM.
"""

import errno
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from couple import __version__
from couple.cli.edit import edit
from couple.cli.image import image
from couple.cli.recipe import run as run_recipe
from couple.cli.reproduce import reproduce
from couple.cli.rerun import rerun
from couple.cli.sweep import sweep
from couple.cli.video import video
from couple.cli.view import view

# What typer makes of a KeyboardInterrupt.
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
DIVERGED = 3

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command()(image)
app.command()(video)
app.command()(edit)
app.command("run")(run_recipe)
app.command()(rerun)
app.command()(sweep)
app.command()(view)
app.command()(reproduce)


def _versioned(asked: bool) -> None:
    if asked:
        print(f"couple {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_versioned)] = False) -> None:
    """Sample several pictures or videos at once and let them pull on each other while they denoise."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    # So that what was begun is cleared away, as after Ctrl-C.
    signal.signal(signal.SIGTERM, _terminate)
    # What these libraries say when they are imported is about their own other uses.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.exit(run(sys.argv[1:]))


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code, having told any mistake on standard error."""
    try:
        code = app(arguments, prog_name="couple", standalone_mode=False) or 0
    except TyperException as error:
        if message := error.format_message():
            print(f"couple: {message}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        if stop.code != TERMINATED:
            raise
        print("couple: terminated; this run left no results.", file=sys.stderr)
        return TERMINATED
    except FloatingPointError as error:
        print(f"couple: {error}", file=sys.stderr)
        return DIVERGED
    except (ValueError, NotImplementedError, ImportError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        # What was sampled is in a checkpoint, unless the disk was full before it was written.
        advice = ". Make room and give the same command again, with --resume" if full else ""
        print(f"couple: {error}{advice}", file=sys.stderr)
        return 1
    if code == INTERRUPTED:
        print("couple: interrupted; this run left no results.", file=sys.stderr)
    return code
