"""`read`: a recipe from a TOML file, checked as a whole before anything is loaded.

Every refusal is one sentence that names the file, the line and what to write instead. A recipe in the record of a run
is read by the same checks.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from couple.recipe import faults, lines
from couple.recipe.lines import Place
from couple.recipe.schema import PARTS, Contents

#: Bytes of a recipe file.
MAX_BYTES = 2**18
_EXAMPLES = {
    name: str(info.examples[0]) for part in reversed(PARTS) for name, info in part.model_fields.items() if info.examples
}
_SET = "--set"


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been checked.

    Attributes:
        file: where it was read.
        home: the folder that its paths are in.
        contents: what it says.
        written: the same as it was written, with what was set.
        lines: on which line of the file what is said; -1 where it was set on the command line.
    """

    file: Path
    home: Path
    contents: Contents
    written: Mapping[str, Any]
    lines: Mapping[Place, int] = field(repr=False)

    @property
    def name(self) -> str:
        """What the results are called."""
        return self.file.stem

    def where(self, *place: str | int) -> str:
        """Name the file and the line of something in it."""
        line = lines.line_of(place, self.lines)
        if line == -1:
            return f"{self.file}, {_SET}"
        return str(self.file) if line is None else f"{self.file}, line {line}"


def read(path: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: a TOML file of at most 256 KiB.
        sets: `a.b=value` each, a value in TOML's syntax that takes the place of what the file says; edges are
            counted from 0.

    Raises:
        ValueError: something in it cannot be; the message names the file, the line and the fix.

    Example:
        read("pair.toml", ["edges.0.weight=0.1"])
    """
    file = Path(path)
    text = _text(file)
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply for a recipe; write it flatter.") from None
    except ValueError as error:
        if file.suffix == ".json":
            raise ValueError(f"{file} is a record, not a recipe; couple rerun {file} repeats its run.") from None
        raise ValueError(f"{file} is not TOML ({str(error).rstrip('.'):.200}); correct it there.") from None
    found = lines.places(text)
    _flatten_sweep(data)
    for setting in sets:
        place, value = _setting(setting)
        assign(data, place, value, f"{_SET} {setting:.80}")
        # What is below the place is no longer what the file says there; tables around it may be new.
        found = {one: line for one, line in found.items() if one[: len(place)] != place}
        around = [place[:k] for k in range(1, len(place) + 1)]
        new = [table for table in around if not any(one[: len(table)] == table for one in found)]
        found |= dict.fromkeys(new, -1)
    return checked(data, file, file.parent, found)


def recorded(request: Mapping[str, Any], source: Path) -> Recipe:
    """The recipe in the record of a run.

    Args:
        request: `file` and `contents` of the recipe, as `Recipe` has them, and the `device` asked for.
        source: the file of the record, for messages.

    Raises:
        ValueError: it is no recipe.
    """
    file, contents = request.get("file"), request.get("contents")
    known = set(request) == {"file", "contents", "device"} and isinstance(request["device"], str | None)
    if not known or not isinstance(file, str) or not isinstance(contents, dict):
        raise ValueError(f"{source}: `request` of its record is no recipe; give a file as `couple` wrote it.")
    if len(file) > 4000 or not file.isprintable():
        raise ValueError(f"{source}: `request.file` of its record is no path; give a file as `couple` wrote it.")
    return checked(contents, source, Path(file).parent, {}, name=Path(file))


def checked(
    data: Mapping[str, Any], source: Path, home: Path, found: Mapping[Place, int], name: Path | None = None
) -> Recipe:
    """Check what a recipe says.

    Args:
        data: as TOML or JSON reads it.
        source: the file it stands in.
        home: the folder that its paths are in.
        found: on which line what is said.
        name: the recipe's own file, if it stands in another.

    Raises:
        ValueError: the first thing that cannot be.
    """
    recipe = Recipe(source, home, Contents.model_construct(), data, found)
    try:
        contents = Contents.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(_sentence(first, recipe)) from None
    for place, sentence in faults.find(contents):
        raise ValueError(f"{recipe.where(*place)}: {sentence}")
    return Recipe(name or source, home, contents, data, found)


def assign(data: Any, place: Sequence[str | int], value: Any, where: str) -> None:
    """Put a value at a place of what TOML read: a table grows, a list does not.

    Raises:
        ValueError: there is no such place.
    """
    for key in place[:-1]:
        if isinstance(data, dict):
            data = data.setdefault(str(key), {})
        else:
            data = data[_index(data, key, where)]
    last = place[-1]
    if isinstance(data, dict):
        data[str(last)] = value
    else:
        data[_index(data, last, where)] = value


def place_of(dotted: str) -> Place:
    """The place of a dotted key: whole numbers count from 0 in a list."""
    return _counted(dotted.split("."))


def _counted(names: Sequence[str]) -> Place:
    return tuple(int(name) if name.isdecimal() and len(name) < 5 else name for name in names)


def _index(data: Any, key: str | int, where: str) -> int:
    if not isinstance(data, list):
        raise ValueError(f"{where}: there is nothing to set below a {type(data).__name__}; name an existing table.")
    if not isinstance(key, int) or key >= len(data):
        count = len(data)
        raise ValueError(f"{where}: {key!r:.40} is none of the {count} there, which are counted from 0.")
    return key


def _text(file: Path) -> str:
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give a TOML file, e.g. recipes/pair.toml.")
    if not file.is_file():
        raise ValueError(f"there is no recipe {file}; give a TOML file, e.g. recipes/pair.toml.")
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{file} has more than {MAX_BYTES} bytes; a recipe is shorter than that.")
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None


def _setting(text: str) -> tuple[Place, Any]:
    key, equals, value = text.partition("=")
    names = lines.names(key) if len(text) <= 4000 else None
    if not equals or names is None:
        raise ValueError(f"{_SET} {text:.80} sets nothing; write {_SET} edges.0.weight=0.1.")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        parsed = {}
    if set(parsed) != {"value"}:
        raise ValueError(
            f"{_SET} {text:.80}: {value.strip()!r:.60} is no TOML value; a string has quotes of its own, "
            f"{_SET} 'trajectories.star.prompt=\"a star\"'."
        )
    if names[0] == "sweep" and len(names) > 1:
        return ("sweep", ".".join(names[1:])), parsed["value"]
    return _counted(names), parsed["value"]


def _flatten_sweep(data: dict[str, Any]) -> None:
    """Write the tables of a sweep as dotted keys, as which they may have been written too."""
    if isinstance(data.get("sweep"), dict):
        data["sweep"] = dict(_leaves(data["sweep"]))


def _leaves(value: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for key, inner in value.items():
        dotted = f"{above}.{key}" if above else key
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, dotted)
        else:
            yield dotted, inner


def _sentence(error: Any, recipe: Recipe) -> str:
    """What pydantic found, as file, line, place, fault and fix."""
    place: Place = tuple(part for part in error["loc"] if part != "[key]")
    key = str(place[-1]) if place else ""
    shown = ".".join(map(str, place))
    got = "" if error["type"] in ("missing", "extra_forbidden") else f"; got {_shown(error['input'])}"
    reason = " ".join(error["msg"].removeprefix("Value error, ").split())
    reason = reason[:1].lower() + reason[1:]
    example = next((_EXAMPLES[str(part)] for part in reversed(place) if str(part) in _EXAMPLES), _EXAMPLES["models"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _EXAMPLES, 1)
        reason, example = "no recipe has this key", _EXAMPLES[near[0]] if near else ""
    fix = f"; write e.g. {example}" if example else "; remove it"
    return f"{recipe.where(*place)}: {shown[:200]!r}: {reason[:300]}{got}{fix}."


def _shown(value: Any) -> str:
    match value:
        case dict():
            return f"a table of {len(value)}"
        case list():
            return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."
