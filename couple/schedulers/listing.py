"""The table of every scheduler class that the installed diffusers exports: how it is read, or why it is refused."""

from typing import NamedTuple

from couple.schedulers.refusals import REFUSED
from couple.schedulers.support import FLOW, SUPPORTED


class Row(NamedTuple):
    """One scheduler class."""

    scheduler: str
    supported: bool
    convention: str
    predictions: str
    note: str


def exported() -> list[str]:
    """Names of the scheduler classes that the installed diffusers exports, sorted."""
    import diffusers.schedulers

    return sorted(name for name in dir(diffusers.schedulers) if name.endswith("Scheduler"))


def table() -> list[Row]:
    """One row for each exported scheduler class, the supported ones first.

    Raises:
        NotImplementedError: the installed diffusers exports a class that is neither supported nor refused.
    """
    return sorted((_row(name) for name in exported()), key=lambda row: (not row.supported, row.scheduler))


def markdown() -> str:
    """The table as Markdown."""
    supported = [row for row in table() if row.supported]
    refused = [row for row in table() if not row.supported]
    lines = ["| scheduler | state | `prediction_type` | notes |", "|---|---|---|---|"]
    lines += [f"| {row.scheduler} | {row.convention} | {row.predictions} | {row.note} |" for row in supported]
    lines += ["", "| refused | why, and what to use |", "|---|---|"]
    lines += [f"| {row.scheduler} | {row.note} |" for row in refused]
    return "\n".join(lines)


def _row(name: str) -> Row:
    if name in SUPPORTED:
        kind = SUPPORTED[name]
        predictions = ", ".join(kind.predictions) or ("flow: eps - x0" if kind.convention == FLOW else "its own")
        return Row(name, True, kind.convention, predictions, kind.note)
    if name in REFUSED:
        reason, instead = REFUSED[name]
        return Row(name, False, "", "", f"{reason}; use {instead}")
    raise NotImplementedError(f"{name} of the installed diffusers is neither supported nor refused by couple")
