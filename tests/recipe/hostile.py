"""Hostile recipes, records and pictures: how they are made, and what may come of them: a named error, and nothing else.

Shared by the tests of `test_hostile.py` and the campaign of `benchmarks/fuzzing.py`.
"""

import json
import shutil
import struct
import zlib
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from couple import recipe
from couple.cli import stamp
from couple.cli.edit import EditRequest
from couple.cli.options import Request
from couple.cli.record import LAYOUT, parse, request_of
from couple.cli.video import VideoRequest
from couple.recipe import calls, paths
from couple.scenes import load
from tests.scenes import samples

RECIPE = """\
max_batch = 2
[models.draw]
bundled = "text_to_image"
[models.own]
folder = "model"
[models.far]
hub = "owner/name"
revision = "main"
dtype = "float16"
[trajectories.star]
model = "draw"
prompt = "a pink star"
images = { image = "cat.png" }
[trajectories.moon]
model = "own"
seed = 1
call = { num_inference_steps = 2, true_cfg_scale = 2.0, flag = true, name = "x" }
[[edges]]
between = ["star", "moon[0]"]
weight = { law = "relax", strength = 1.0, decay = 0.5, window = [0.0, 0.2] }
mask = "cat.png"
[[edges]]
graph = "star"
between = ["star", "moon.frames(1)"]
weight = 0.1
energy = { name = "huber", delta = 1.0 }
directed = true
normalize = true
[output]
uncoupled = false
fps = 8
[sweep]
trajectories.star.seed = [0, 1]
"edges.1.weight" = [0.1, 0.2]
"""
RECORD = {
    "layout": LAYOUT,
    "command": "image",
    "arguments": ["couple"],
    "request": {
        **dict(prompts=["a", "b"], model=None, graph="pair", size=[32, 32], weight=1.0, law="relax", until=0.2),
        **dict(steps=2, guidance=None, seed=0, max_batch=None, dtype=None, device=None),
        **dict(memory=None, budget=None, attention=None, compile=False),
    },
    "finished": "2026-01-01T00:00:00+00:00",
    "versions": {"torch": "2"},
    "machine": {"system": "Linux", "device": "cpu", "threads": 1},
    "models": {},
    "inputs": {"a": "0" * 64},
    "edges": ["a - b"],
    "batch": {"max_batch": None, "forwards": 2, "steps": [2, 2]},
    "memory": None,
    "seconds": {"load": 1.0},
    "warnings": [],
    "results": {},
}
#: What every reader may raise: the command line tells these in one sentence.
NAMED = (ValueError, FileNotFoundError)
#: Pieces that changes are made of.
WORDS = [
    *(
        "..",
        "/",
        "~",
        "C:",
        "\\",
        "\0",
        "\n",
        "=",
        "[",
        "]",
        "[[",
        "{",
        "}",
        '"',
        "'",
        '"""',
        "'''",
        "#",
        ",",
        ".",
        "\ud7ff",
    ),
    *("nan", "inf", "-1", "0", "1e400", "9" * 400, "true", "1979-05-27", "0x10", "models", "trajectories", "sweep"),
    *(
        "edges",
        "__class__",
        "trust_remote_code",
        "../../etc/passwd",
        "folder",
        "hub",
        "layout",
        "request",
        "iTXt",
        "moov",
    ),
]


class World:
    """A folder to read in and what lies around it, which must stay as it is."""

    def __init__(self, outer: Path) -> None:
        self.outer, self.home = outer, outer / "home"
        self.home.mkdir()
        Image.new("RGB", (8, 8)).save(self.home / "cat.png")
        (self.home / "model").mkdir()
        (self.home / "model" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
        (self.home / "link.png").symlink_to("/etc/passwd")
        samples.nerfstudio(self.home / "scene")
        self.scene = (self.home / "scene" / "transforms.json").read_bytes()
        picture, clip = self.home / "seed.png", self.home / "seed.gif"
        shutil.copy(self.home / "cat.png", picture)
        Image.new("P", (8, 8)).save(clip)
        record = parse(json.dumps(RECORD), picture)
        stamp._stamp_png(picture, record.text(indent=None))
        stamp._stamp_gif(clip, record.text(indent=None))
        self.plain = (self.home / "cat.png").read_bytes()
        self.png, self.gif, self.mp4 = picture.read_bytes(), clip.read_bytes(), boxed(record.text(indent=None))
        self.names = self._names()

    def _names(self) -> list[str]:
        return sorted(str(path) for path in self.outer.rglob("*"))

    def recipe(self, content: bytes) -> bool:
        """Read a recipe, take apart what it asks for, and resolve its paths."""
        file = self.home / "recipe.toml"
        file.write_bytes(content)

        def act() -> None:
            for _, one in recipe.expand(recipe.read(file))[:3]:
                texts = [model.folder for model in one.contents.models.values() if model.folder is not None]
                for path in [*calls.inputs(one), *(one.home / text for text in texts)]:
                    text = str(path.relative_to(one.home)) if path.is_relative_to(one.home) else str(path)
                    found = paths.within(one.home, text, "path", "here")
                    assert found.resolve().is_relative_to(self.home.resolve()), found
                for edge in one.contents.edges:
                    calls.law(edge.weight), calls.energy(edge.energy)

        return self._named(act, file)

    def record(self, content: bytes, suffix: str = ".json") -> bool:
        """Read a record from a file of some kind, and what it asks for."""
        file = self.home / f"run{suffix}"
        file.write_bytes(content)

        def act() -> None:
            record = stamp.read(file)
            if record.command == "run":
                recipe.recorded(record.request, file)
            else:
                kind = {"image": Request, "video": VideoRequest, "edit": EditRequest}[record.command]
                made = request_of(kind, record, file, self.home / "out")
                assert made.out == self.home / "out"

        return self._named(act, file)

    def scene_file(self, content: bytes) -> bool:
        """Load a scene."""
        file = self.home / "scene" / "transforms.json"
        file.write_bytes(content)
        return self._named(lambda: load(self.home / "scene").fitted(8, 8).pictures(), None)

    def _named(self, act, made: Path | None) -> bool:
        """Whether it went well; anything but a named error of one line is a finding, and so is a file that was made."""
        try:
            act()
            return True
        except NAMED as error:
            assert "\n" not in str(error) and len(str(error)) < 6000, repr(error)
            return False
        finally:
            if made is not None:
                made.unlink()

    def untouched(self) -> bool:
        """Whether the same files are there as in the beginning."""
        return self._names() == self.names


def boxed(text: str) -> bytes:
    """A record as an MP4 has it."""
    data = struct.pack(">II", 1, 0) + text.encode()
    for kind in (b"data", b"\xa9cmt", b"ilst"):
        data = struct.pack(">I4s", len(data) + 8, kind) + data
    for kind, before in ((b"meta", b"\0\0\0\0"), (b"udta", b""), (b"moov", b"")):
        data = struct.pack(">I4s", len(before + data) + 8, kind) + before + data
    return struct.pack(">I4s", 16, b"ftyp") + b"isom\0\0\2\0" + data


def in_png(plain: bytes, text: bytes) -> bytes:
    """A PNG without a record, and these bytes as its record."""
    body = b"iTXtcouple\0\1\0\0\0" + zlib.compress(text)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return plain[:33] + chunk + plain[33:]


_PIECES = st.sampled_from([word.encode("utf-8", "surrogatepass") for word in WORDS]) | st.binary(max_size=3)
_EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 12), _PIECES), min_size=1, max_size=4)


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """Good content with pieces put in, taken out and exchanged."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        content = bytearray(good)
        for place, length, piece in edits:
            place %= len(content) + 1
            content[place : place + length] = piece
        return bytes(content)

    return _EDITS.map(apply)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
    | st.sampled_from([2**63, -(2**64), 10**400, "a" * 30_000, "image", "run", "edit", "relax"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_REQUESTS = {
    "run": {"file": "a.toml", "device": None, "contents": {"models": {"m": {"bundled": "instruct"}}, "trajectories": {"t": {"model": "m"}}}},
    "video": RECORD["request"] | {"frames": 5, "fps": 8.0},
}  # fmt: skip


@st.composite
def records(draw) -> bytes:
    """A record as JSON with up to three values exchanged, removed or added."""
    record = json.loads(json.dumps(RECORD))
    if draw(st.booleans()):
        record["command"] = draw(st.sampled_from(sorted(_REQUESTS)))
        record["request"] = json.loads(json.dumps(_REQUESTS[record["command"]]))
    for _ in range(draw(st.integers(0, 3))):
        holder = record
        while True:
            key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
            if isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 3)):
                holder = holder[key]
                continue
            break
        match draw(st.integers(0, 2)):
            case 0:
                holder[key] = draw(VALUES)
            case 1 if len(holder) > 1:
                del holder[key]
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(VALUES)
    return json.dumps(record).encode()
