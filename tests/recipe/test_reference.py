"""`docs/recipes.md` has every key of a recipe, what it takes and its default, and nothing else."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic_core import PydanticUndefined

from couple.recipe import reading, schema

PAGE = (Path(__file__).parents[2] / "docs/recipes.md").read_text(encoding="utf-8")
PARTS = {
    "The file": schema.Contents,
    "`[models.NAME]`": schema.Model,
    "`[trajectories.NAME]`": schema.Trajectory,
    "`[[edges]]`": schema.Edge,
    "`weight`": schema.Law,
    "`energy`": schema.Energy,
    "`[output]`": schema.Output,
}
FIELDS = [(title, name) for title, part in PARTS.items() for name in part.model_fields]


def rows(title: str) -> dict[str, tuple[str, str, str]]:
    """The rows of a section's table, by key: what it takes, its default, what it means."""
    section = re.split(r"^#+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    table = section.split("| key | takes | default | meaning |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    assert all(len(row) == 4 and all(row[k] for k in (0, 1, 3)) for row in cells), cells
    return {row[0].strip("`"): (row[1], row[2], row[3]) for row in cells}


def test_the_page_has_a_table_for_each_part_and_no_other():
    assert set(PARTS.values()) == set(schema.PARTS)
    assert PAGE.count("| key | takes | default | meaning |") == len(PARTS)


@pytest.mark.parametrize("title", PARTS)
def test_a_table_has_every_key_and_nothing_else(title):
    assert list(rows(title)) == list(PARTS[title].model_fields)


def limits(given: Any) -> list[float]:
    """The numbers that a field, or a type within it, is bounded by, those above 0 and finite."""
    found = [
        getattr(one, name)
        for one in getattr(given, "metadata", [])
        for name in ("ge", "gt", "le", "lt")
        if hasattr(one, name)
    ]
    found += [
        getattr(one, name)
        for one in getattr(given, "metadata", [])
        for name in ("min_length", "max_length")
        if hasattr(one, name)
    ]
    return [number for number in found if number not in (0, 2**63)]


def choices(kind: Any) -> tuple[str, ...]:
    """What a field chooses from, wherever the choice stands in its type."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(name for inner in get_args(kind) for name in choices(inner))


@pytest.mark.parametrize(("title", "name"), FIELDS)
def test_a_row_says_what_its_key_takes(title, name):
    field = PARTS[title].model_fields[name]
    takes, default, _ = rows(title)[name]
    if named := choices(field.annotation):
        assert re.findall(r'`"(\w+)"`', takes) == list(named)
    written = takes.replace("10⁶", "1000000")
    strings = isinstance(field.annotation, type(str | None)) and str in get_args(field.annotation)
    for number in limits(field):
        assert (
            strings or f"{number:g}" in re.findall(r"\d+", written) or f"{number:.0f}" in re.findall(r"\d+", written)
        ), number
    if field.is_required():
        assert default == "required"
    elif field.default not in (None, PydanticUndefined) and not isinstance(field.default, schema.BaseModel):
        shown = str(field.default).lower() if isinstance(field.default, bool) else repr(field.default).replace("'", '"')
        assert default == f"`{shown}`"
    else:
        assert default != "required"


def test_the_page_says_what_a_call_does_not_take():
    refused = PAGE.split("It does not take\n")[1].split("\n\n* lists")[0]
    assert set(schema.RESERVED) <= set(re.findall(r"`(\w+)`", refused))


def test_the_limits_of_a_file_are_those_that_are_written():
    assert (
        f"at most {reading.MAX_BYTES // 1024} KiB, a string {schema.Model.model_config.get('str_max_length')} characters"
        in PAGE
    )
    assert f"at most {schema.MAX_RUNS} in all" in PAGE
