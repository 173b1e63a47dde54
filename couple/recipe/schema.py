"""What may stand in a recipe: names, types and limits of everything.

The examples are what messages tell people to write.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

#: What a name of a model or trajectory is made of; it becomes part of file names.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
#: Arguments of a call that a recipe sets under their own names, or that are no plain values.
RESERVED = frozenset({"prompt", "generator", "output_type", "return_dict"})
#: Laws that go from one strength to another.
BLENDS = frozenset({"linear", "cosine"})
#: Runs of one sweep.
MAX_RUNS = 1000

Name = Annotated[str, Field(pattern=NAME)]
#: A trajectory, a row of its batch, or a frame of its video: `cat`, `cat[0]`, `cat.frames(3)`.
End = Annotated[str, Field(pattern=NAME[:-1] + r"(\[\d{1,4}\]|\.frames\(\d{1,4}\))?$")]
Strength = Annotated[float, Field(ge=0, le=1e6)]


#: Largest magnitude of a number in a call.
_MOST = 1e9


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= _MOST):
        return value
    if isinstance(value, str) and len(value) <= 4000:
        return value
    raise ValueError("a call takes numbers between -1e9 and 1e9, strings, true and false")


Plain = Annotated[Any, AfterValidator(_plain)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, str_max_length=4000)


class Model(_Part):
    """Where the weights are; one of `bundled`, `folder`, `hub`."""

    bundled: Literal["text_to_image", "text_to_video", "instruct", "restyle"] | None = Field(
        None, examples=['bundled = "text_to_image"']
    )
    folder: str | None = Field(None, min_length=1, examples=['folder = "models/flux"'])
    hub: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$", examples=['hub = "owner/name"']
    )
    revision: str | None = Field(None, pattern=r"^[A-Za-z0-9][\w.-]{0,99}$", examples=['revision = "main"'])
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, examples=['dtype = "bfloat16"'])


class Trajectory(_Part):
    """One call of a pipeline."""

    model: Name = Field(examples=['model = "draw"'])
    prompt: str | None = Field(None, examples=['prompt = "a pink star"'])
    seed: int = Field(0, ge=0, lt=2**63, examples=["seed = 0"])
    images: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")], str] = Field(
        default_factory=dict, max_length=8, examples=['images = { image = "cat.png" }']
    )
    call: dict[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,63}$")], Plain] = Field(
        default_factory=dict, max_length=64, examples=["call = { num_inference_steps = 24 }"]
    )


class Law(_Part):
    """A weight: a law of `couple.weights` with its strength, in a window of the run if one is given."""

    law: Literal["constant", "rate", "relax", "implicit", "linear", "cosine"] = Field(examples=['law = "relax"'])
    strength: Strength = Field(examples=["strength = 1.0"])
    end: Strength | None = Field(None, examples=["end = 0.0"])
    decay: float | None = Field(None, ge=0, le=100, examples=["decay = 1.0"])
    window: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, min_length=2, max_length=2, examples=["window = [0.0, 0.2]"]
    )


class Energy(_Part):
    """An energy of `couple.energies` with its number, if it takes one."""

    name: Literal["squared_distance", "huber", "cosine", "low_pass"] = Field(examples=['name = "huber"'])
    delta: float | None = Field(None, gt=0, le=1e6, examples=["delta = 1.0"])
    size: int | None = Field(None, ge=1, le=4096, examples=["size = 8"])


def _law(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"law": "constant", "strength": value} if number else value


def _energy(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Edge(_Part):
    """Who pulls on whom: a pair, or one of the other graphs between several."""

    between: list[End] = Field(min_length=2, max_length=64, examples=['between = ["star", "moon"]'])
    graph: Literal["pair", "chain", "star", "complete"] = Field("pair", examples=['graph = "pair"'])
    weight: Annotated[Law, BeforeValidator(_law)] = Field(
        examples=['weight = { law = "relax", strength = 1.0, window = [0.0, 0.2] }']
    )
    energy: Annotated[Energy, BeforeValidator(_energy)] = Field(
        Energy(name="squared_distance", delta=None, size=None), examples=['energy = "squared_distance"']
    )
    mask: str | None = Field(None, min_length=1, examples=['mask = "mask.png"'])
    directed: bool = Field(False, examples=["directed = true"])
    normalize: bool = Field(False, examples=["normalize = true"])


class Output(_Part):
    """What is shown of the samples."""

    uncoupled: bool = Field(True, examples=["uncoupled = true"])
    fps: float = Field(8.0, gt=0, le=100, examples=["fps = 8"])


class Contents(_Part):
    """A whole recipe."""

    models: dict[Name, Model] = Field(min_length=1, max_length=16, examples=["[models.draw]"])
    trajectories: dict[Name, Trajectory] = Field(min_length=1, max_length=64, examples=["[trajectories.star]"])
    edges: list[Edge] = Field(default_factory=list, max_length=1000, examples=["[[edges]]"])
    max_batch: int | None = Field(None, ge=1, le=4096, examples=["max_batch = 4"])
    output: Output = Field(Output(uncoupled=True, fps=8.0), examples=["[output]"])
    sweep: dict[Annotated[str, Field(min_length=1, max_length=200)], list[Any]] = Field(
        default_factory=dict, max_length=16, examples=['sweep = { "trajectories.star.seed" = [0, 1, 2] }']
    )

    @property
    def rows(self) -> tuple[str, ...]:
        """What the samples are called, each row of them."""
        if not self.edges:
            return ("uncoupled",)
        return ("uncoupled", "coupled") if self.output.uncoupled else ("coupled",)


PARTS: tuple[type[BaseModel], ...] = (Contents, Model, Trajectory, Law, Energy, Edge, Output)
