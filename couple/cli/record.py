"""The run record: everything needed to know, and to repeat, what a folder of results is.

It is written as `run.json` and into every picture and clip (`couple.cli.stamp`), and `couple rerun` reads it back. A
record may come from anywhere, so it is read within limits and by a strict schema, the one it is written by; what a
record says is only ever read, never written to.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model

#: Number of this layout; another number is another schema.
LAYOUT = 2
#: What of a request is not done again: where it went, and how it was watched and stopped.
ONCE = frozenset({"out", "preview", "checkpoint_every", "resume"})
#: Bytes of a record.
MAX_RECORD = 2**20

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, str_max_length=20_000)

Schema = TypeVar("Schema", bound=BaseModel)
Request = TypeVar("Request")
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = _STRICT


class Component(_Strict):
    """One part of a pipeline that has weights.

    Attributes:
        kind: its class.
        revision: the commit it has on the model hub, if it came from there.
        files: SHA-256 of its files of weights, by name; empty if it was not loaded from files of its own.
        tensors: SHA-256 over its tensors where there are no files.
    """

    kind: str
    revision: str | None
    files: dict[str, Digest]
    tensors: Digest | None


class Scheduler(_Strict):
    """A scheduler's class and its whole configuration."""

    kind: str
    config: dict[str, JsonValue]


class Model(_Strict):
    """A pipeline as it ran.

    Attributes:
        name: what was asked for: a folder, a hub id, "bundled" or the name of a published model.
        pipeline: its class.
        dtype: of the weights.
        device: as torch spells it.
        attention: diffusers' backend, and the classes of the attention processors.
        scheduler: its own.
        components: by name in the pipeline.
        call: what each call of it was given beside prompt and generator, as far as JSON can hold it.
        seeds: of its trajectories, in their order.
    """

    name: str
    pipeline: str
    dtype: str
    device: str
    attention: list[str]
    scheduler: Scheduler | None
    components: dict[str, Component]
    call: dict[str, JsonValue]
    seeds: list[int]


class Batch(_Strict):
    """How forwards were shared.

    Attributes:
        max_batch: the limit asked for.
        forwards: that shared networks made.
        steps: of each trajectory, in order.
        processes: among which the trajectories were divided.
    """

    max_batch: int | None
    forwards: int
    steps: list[int]
    processes: int = 1


class Machine(_Strict):
    """Where it ran: the system, the device's name and the number of threads torch used."""

    system: str
    device: str
    threads: int


class Record(_Strict):
    """All of it.

    Attributes:
        layout: number of this layout.
        command: which command ran.
        arguments: how it was typed; for reading only.
        request: what was asked, see `asked`.
        finished: UTC.
        versions: of couple, Python and the libraries that decide about numbers.
        machine: where it ran.
        models: by role.
        inputs: SHA-256 of the files read, by path as it was given.
        edges: who pulled on whom, by which law.
        batch: how forwards were shared.
        memory: for each sampling how weights were placed, and what was given up; None for all on the device.
        seconds: by stage.
        warnings: that were raised.
        results: what was measured of the samples.
        files: that were written, by their paths in the folder, but for the record itself.
    """

    layout: Literal[2] = LAYOUT
    command: Literal["image", "video", "edit", "run"]
    arguments: list[str]
    request: dict[str, JsonValue]
    finished: str
    versions: dict[str, str]
    machine: Machine
    models: dict[str, Model]
    inputs: dict[str, Digest]
    edges: list[str]
    batch: Batch
    memory: JsonValue = None
    seconds: dict[str, float]
    warnings: list[str]
    results: dict[str, JsonValue]
    files: list[str] = []

    def text(self, indent: int | None = 2) -> str:
        """JSON."""
        return self.model_dump_json(indent=indent)


def parse(text: str | bytes, source: Path) -> Record:
    """Read a record.

    Args:
        text: JSON.
        source: the file it comes from, for messages.

    Raises:
        ValueError: it is too large, no JSON, of another layout, or has something in it that a record does not have.
    """
    if len(text) > MAX_RECORD:
        raise ValueError(f"{source}: its record has more than {MAX_RECORD} characters; it is not one of `couple`.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error}"[:200].rstrip(".")
        raise ValueError(f"{source} holds no record: {reason}. Give a run.json as `couple` wrote it.") from None
    if not isinstance(data, dict):
        raise ValueError(f"{source} holds no record but a {type(data).__name__}; give a run.json of `couple`.")
    layout = data.get("layout", 1)
    if layout != LAYOUT or not isinstance(layout, int) or isinstance(layout, bool):
        raise ValueError(
            f"{source}: the record has layout {layout!r:.40} and this version of couple reads {LAYOUT}; make the run "
            "again from its command line, which the record holds."
        )
    # JSON mode of the strict schema takes lists for tuples; NaN has been read by then and is refused.
    return checked(Record, data, source)


def checked(schema: type[Schema], data: Any, source: Path, within: str = "") -> Schema:
    """Validate `data`, read from JSON.

    Raises:
        ValueError: the first thing in it that does not fit, in one sentence.
    """
    try:
        return schema.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join((within, *map(str, first["loc"]))).strip(".") or "the record"
        reason = " ".join(first["msg"].split())
        raise ValueError(
            f"{source}: {place!r:.200} of its record cannot be used ({reason:.200}); give a file as `couple` wrote it."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: its record cannot be used ({error!s:.200}).") from None


def asked(request: Any) -> dict[str, Any]:
    """What a request, a dataclass, asks for, all but `ONCE`."""
    return {field.name: getattr(request, field.name) for field in fields(request) if field.name not in ONCE}


def request_of(kind: Callable[..., Request], record: Record, source: Path, out: Path) -> Request:
    """The request that a record was made by, of the dataclass `kind`, to be carried out into `out`.

    Raises:
        ValueError: what the record holds is not what `kind` asks for.
    """
    hints = get_type_hints(kind)
    wanted: dict[str, Any] = {
        # What came later than the record has the value that it had before it could be asked.
        field.name: (hints[field.name], ... if field.default is MISSING else field.default)
        for field in fields(kind)  # pyright: ignore[reportArgumentType]
        if field.name not in ONCE
    }
    schema = create_model(kind.__name__, __config__=_STRICT, **wanted)
    given = checked(schema, record.request, source, "request")
    return kind(out=out, **{name: getattr(given, name) for name in wanted})
