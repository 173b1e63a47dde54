"""Sizes of memory as people write them; here, so that a command line can be judged without torch."""

import re

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def nbytes(text: str) -> int | None:
    """The bytes of a size such as "12GB" or "8GiB"; None if it is none.

    Example:
        >>> nbytes("1.5kB"), nbytes("2 KiB"), nbytes("12")
        (1500, 2048, None)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b\s*", text, re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        return None
    return int(float(found[1]) * (_BINARY if found[3] else _UNITS)[found[2].lower()])
