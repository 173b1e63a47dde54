"""Show the examples of docstrings as code.

Docstrings here end in `Example:`, which mkdocstrings takes for prose; this extension, named in mkdocs.yml, puts a fence
around what follows.
"""

import re
import textwrap
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)Example:\n((?:\1 +\S.*\n?|\s*\n)+)", re.MULTILINE)


class Examples(griffe.Extension):
    """Puts the examples of every docstring in fences."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(match: re.Match[str]) -> str:
    code = textwrap.dedent(match[2]).strip()
    language = "pycon" if code.startswith(">>>") else "python"
    return textwrap.indent(f"Example:\n    ```{language}\n{textwrap.indent(code, '    ')}\n    ```\n", match[1])
