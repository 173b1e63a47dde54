"""Paths of a recipe: of files in its own folder, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from couple.scenes.untrusted import inside


def within(home: Path, text: str, what: str, where: str) -> Path:
    """Return the path that `text` names, inside `home`; it must be there.

    Args:
        home: the folder of the recipe.
        text: as the recipe has it.
        what: which key, for messages.
        where: which file, and line.

    Raises:
        ValueError: the path is absolute, begins with ~, has a drive, a backslash, "..", or a character that no name
            has, leads out of `home` through a link, or nothing is there.
    """
    if text.startswith("~"):
        raise ValueError(f"{where}: `{what}` is {text!r:.80}; write a path inside {home}, from there, without ~.")
    path = inside(home, text, what, where)
    if not path.exists():
        raise ValueError(f"{where}: `{what}` is {text!r:.80}, and there is no such file in {home}; check the name.")
    return path
