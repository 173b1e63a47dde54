"""The page that `couple view` makes of a run folder: one file of HTML that needs nothing but the folder it is in.

Names and records are taken for hostile. All of them reach the page as escaped text or as quoted relative addresses;
the page's policy lets it run its own script only and load nothing that is not a local picture or video.
"""

import base64
import hashlib
import html
import itertools
import json
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

from couple.cli.folder import RECORD

#: Files that show several samples at once; the others can be compared.
OVERVIEWS = {
    "sheet.png": "Contact sheet",
    "side-by-side.mp4": "Side by side",
    "orbit.mp4": "Orbit",
    "filmstrip.png": "Filmstrip: predictions on the way",
    "trace.png": "Gap, energy and pull",
}
#: Pictures and videos offered at most; characters of the record shown at most.
MOST_FILES, MOST_TEXT = 2000, 200_000
MODES = {"side": "side by side", "slider": "slider", "blink": "blink", "difference": "difference"}
# A part of the record with no more entries, and nothing in them, is shown open.
_OPEN = 8
# Folders of a run that hold no samples.
_ASIDE = {"previews", "depth", "masks"}


def page(folder: Path) -> str:
    """Make the page of a run folder, to be written into it as `folder.PAGE`.

    Links in the folder are not followed.

    Raises:
        ValueError: there is no picture, video or record in the folder.
    """
    samples = sorted(itertools.islice(_samples(folder, folder), MOST_FILES))
    overviews = [name for name in OVERVIEWS if _is_file(folder / name)]
    record = _record(folder / RECORD)
    if not (samples or overviews or record):
        raise ValueError(f"{folder} holds no run: no {RECORD}, no picture, no video. Name the folder of a run.")
    sections = [_section(OVERVIEWS[name], _shown(name)) for name in overviews]
    script = _own("page.js")
    return Template(_own("page.html")).substitute(
        title=html.escape(folder.absolute().name),
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        script=script,
        compare=_compare(samples),
        sections="\n".join([*sections, record]),
    )


def _own(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _samples(root: Path, folder: Path) -> Iterator[str]:
    """Addresses of the pictures and videos below a folder, as POSIX paths from the root."""
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _ASIDE:
            yield from _samples(root, path)
        elif entry.is_file(follow_symlinks=False) and path.suffix in (".png", ".mp4") and path.name not in OVERVIEWS:
            yield path.relative_to(root).as_posix()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _compare(samples: Sequence[str]) -> str:
    if not samples:
        return ""
    first, second = _opening(samples)
    chooser = "".join(
        f'<label>{side.upper()} <select id="choose-{side}">{_options(samples, chosen)}</select></label>'
        for side, chosen in (("a", first), ("b", second))
    )
    modes = "".join(f'<button data-mode="{mode}">{label}</button>' for mode, label in MODES.items())
    return (
        f'<div class="controls">{chooser}</div><div class="controls">{modes}</div>'
        '<div id="stage" data-mode="side" data-shown="a"><img id="a" alt=""><img id="b" alt=""></div>'
        '<input id="cut" type="range" min="0" max="100" value="50" step="0.1" aria-label="where B begins">'
    )


def _opening(samples: Sequence[str]) -> tuple[str, str]:
    """The two that are shown first: one sample without and with the coupling, if there are such."""
    for before, after in (("uncoupled", "coupled"), ("per-image", "coupled")):
        for sample in samples:
            twin = re.sub(rf"(^|/){before}(?=[-/])", rf"\g<1>{after}", sample, count=1)
            if twin != sample and twin in samples:
                return sample, twin
    return samples[0], samples[min(1, len(samples) - 1)]


def _options(samples: Sequence[str], chosen: str) -> str:
    return "".join(
        f'<option value="{_address(sample)}"{" selected" if sample == chosen else ""}>{html.escape(sample)}</option>'
        for sample in samples
    )


def _address(path: str) -> str:
    # Quoted, a name can be no scheme, no fragment and no way out of an attribute.
    return html.escape("./" + urllib.parse.quote(path, errors="surrogateescape"))


def _shown(name: str) -> str:
    if name.endswith(".mp4"):
        return f'<video class="wide" src="{_address(name)}" muted loop autoplay playsinline controls></video>'
    if name == "filmstrip.png":
        return (
            f'<div class="strip"><img src="{_address(name)}" alt=""></div>'
            "<p hidden>Scroll sideways for later steps &rarr;</p>"
        )
    return f'<img class="wide" src="{_address(name)}" alt="">'


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}"


def _record(path: Path) -> str:
    """The record as a table, what is nested in it folded away, and as it is."""
    if not _is_file(path):
        return ""
    with path.open("rb") as file:
        text = file.read(MOST_TEXT + 1).decode("utf-8", "replace")
    cut = "\n... (the file goes on)" if len(text) > MOST_TEXT else ""
    try:
        record = json.loads(text)
        table = _table(record) if isinstance(record, dict) else ""
    except (ValueError, RecursionError):
        table = ""
    whole = f"<details><summary>{RECORD}</summary><pre>{html.escape(text[:MOST_TEXT] + cut)}</pre></details>"
    return _section("Record", table + whole)


def _table(record: dict[str, Any]) -> str:
    rows = (f"<tr><td>{html.escape(key)}</td><td>{_cell(value)}</td></tr>" for key, value in record.items())
    return f"<table>{''.join(rows)}</table>"


def _cell(value: Any) -> str:
    """Numbers and texts as they are, a list of them in one line, all else folded, and open where it is short."""
    entries = dict(zip(map(str, itertools.count(1)), value, strict=False)) if isinstance(value, list) else value
    if not isinstance(entries, dict) or not entries:
        return html.escape(_short(_said(value)))
    flat = not any(isinstance(entry, dict | list) for entry in entries.values())
    if flat and isinstance(value, list):
        return html.escape(_short(", ".join(_said(entry) for entry in value)))
    shown = " open" if flat and len(entries) <= _OPEN else ""
    noun = "entry" if len(entries) == 1 else "entries"
    return f"<details{shown}><summary>{len(entries)} {noun}</summary>{_table(entries)}</details>"


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, {}, []) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:400]} ..."
