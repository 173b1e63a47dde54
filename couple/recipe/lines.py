"""On which line of a TOML file a key stands.

`tomllib` keeps no places, so the file is looked through once more, for headers of tables and keys at the beginning of a
line: what is written inside a value has the line of its key. The file has been parsed by then, so it is TOML.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Place = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_QUOTES = re.compile(r'"""|' + "'''")


def places(text: str) -> dict[Place, int]:
    r"""Return the line, from 1, of every table and key.

    Example:
        >>> places('a = 1\n[[edges]]\nweight = 2\n')
        {('a',): 1, ('edges', 0): 2, ('edges', 0, 'weight'): 3}
    """
    found: dict[Place, int] = {}
    table: Place = ()
    quoted = False
    for number, line in enumerate(text.split("\n"), 1):
        if not quoted:
            if header := _HEADER.match(line):
                table = names(header[2]) or (header[2].strip(),)
                if header[1] == "[[":
                    count = sum(1 for place in found if place[:-1] == table and isinstance(place[-1], int))
                    table = (*table, count)
                found.setdefault(table, number)
            elif key := _KEY.match(line):
                found.setdefault((*table, *(names(key[1]) or (key[1].strip(),))), number)
        quoted ^= len(_QUOTES.findall(line)) % 2 == 1
    return found


def line_of(place: Place, found: Mapping[Place, int]) -> int | None:
    """The line of a place, or of the nearest thing around it that has one."""
    for length in range(len(place), 0, -1):
        if place[:length] in found:
            return found[place[:length]]
    return None


def names(dotted: str) -> tuple[str, ...] | None:
    r"""The parts of a dotted key, as TOML reads them; None if it is no key.

    Example:
        >>> names('sweep."edges.0.weight"'), names("a..b")
        (('sweep', 'edges.0.weight'), None)
    """
    try:
        inner: object = tomllib.loads(f"{dotted} = 0")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    found: list[str] = []
    while isinstance(inner, dict):
        if len(inner) != 1:
            return None
        name, inner = next(iter(inner.items()))
        found.append(name)
    return tuple(found)
