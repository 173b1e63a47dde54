"""What the documentation shows is what happens.

The blocks of a page are run in order, in a folder of the page's own: Python in one namespace, `couple` command lines by
the command line itself, TOML written down under its title. A `text` block is what the block before it prints. A block
that takes minutes, weights or other hardware says so in a comment above it, and is read but not run.
"""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from PIL import Image
from typer.main import get_command

import couple
from couple import backends, cli
from docs import gallery

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(
    r'^(?:<!-- not run: (?P<why>[^>]+) -->\n+)?^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    flags=re.MULTILINE | re.DOTALL,
)
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
TEST_ID = re.compile(r"`(tests/[\w/]+\.py::\w+)`")
#: Modules beside those of `couple` itself whose public names must be in the reference.
BESIDE = ("scenes.edits", "scenes.moving", *(
    f"backends.{name}" for name in ("acceleration", "editor_calls", "editors", "flux", "previews", "video", "views")
))  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; `why` says why it is not run."""

    line: int
    why: str | None
    kind: str
    title: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = [Block(text.count("\n", 0, match.start("text")), **match.groupdict()) for match in BLOCK.finditer(text)]
    assert len(found) == len(re.findall(r"^```\w+", text, flags=re.MULTILINE)), f"{page.name}: a fence is not read"
    return found


def python(page: Path, block: Block, namespace: dict) -> None:
    # Empty lines make the line numbers of an error those of the page.
    code = compile("\n" * block.line + block.text, str(page), "exec")
    if block.title is not None:
        Path(block.title).write_text(block.text, encoding="utf-8")
    elif block.why is None:
        exec(code, namespace)


def shell(line: str, runs: bool) -> None:
    """Run one command line, or check it against what it calls."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    program, *arguments = words
    if program == "couple" and runs:
        assert cli.run(arguments) == 0, line
    elif program == "couple":
        group: Any = get_command(cli.app)
        with group.make_context("couple", list(arguments), resilient_parsing=True) as context:
            name, command, rest = group.resolve_command(context, list(arguments))
            command.make_context(name, rest, parent=context)
    elif program == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        print(done.stdout, end="")
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), line
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for extra in re.findall(r"\[([\w,]+)\]", line):
            assert set(extra.split(",")) <= set(extras), line
    elif program == "python":
        module = importlib.import_module(arguments[0].removesuffix(".py").replace("/", "."))
        if runs:
            module.main(arguments[1:])
    else:
        raise AssertionError(f"{line}: nothing here knows how to check it")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace, printed = {"__name__": "docs"}, ""
    for block in blocks(page):
        if block.kind == "text":
            assert block.text == printed, f"{page.name}, line {block.line}"
        elif block.kind == "toml" and block.title is not None:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            python(page, block, namespace)
        elif block.kind == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                shell(line, runs=block.why is None)
        else:
            raise AssertionError(f"{page.name}, line {block.line}: nothing here runs {block.kind!r}")
        printed = capsys.readouterr().out


def test_every_test_that_a_promise_names_is_there():
    named = TEST_ID.findall((DOCS / "guarantees.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    for file, test in (name.split("::") for name in named):
        # pytest collects every function of such a name in such a file; one that cannot be imported fails by itself.
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert Path(file).name.startswith("test_") and test.startswith("test_"), f"{file}::{test}"
        assert test in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{file}::{test}"


def test_every_promise_names_its_test():
    rows = [line for line in (DOCS / "guarantees.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise")]
    assert promises and all(TEST_ID.search(row) for row in promises)


def test_every_picture_is_made_by_a_script():
    shown = {Path(name).name for page in PAGES for name in IMAGE.findall(page.read_text(encoding="utf-8"))}
    by_command = {"demo.png", "edit.png"}
    assert shown - by_command <= {f"{name}.png" for name in gallery.PICTURES}
    assert {path.stem for path in (DOCS / "gallery").glob("*.png")} == set(gallery.PICTURES)


@pytest.mark.parametrize("name", gallery.PICTURES)
def test_the_gallery_can_be_made(name, tmp_path, capsys):
    gallery.main([name, "--steps", "2", "--out", str(tmp_path)])
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.png")]
    assert Image.open(tmp_path / f"{name}.png").size == Image.open(DOCS / "gallery" / f"{name}.png").size


def test_measured_rows_are_those_of_the_benchmarks():
    measured = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").splitlines()
    for name in ("update-rule.md", "gallery.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        for table in re.findall(r"^\| law \| distance .*\n\|[-|]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
            for row in table.splitlines():
                assert row in measured, row


def test_the_site_has_every_public_name_and_fetches_nothing(tmp_path):
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    config.plugins.on_shutdown()
    assert not public_names() - described(tmp_path)
    assert not fetched(tmp_path)


def described(site: Path) -> set[str]:
    """What has a place of its own in the reference."""
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    return {line.split()[0] for line in inventory.splitlines()}


def public_names() -> set[str]:
    modules = ["couple", *(f"couple.{name}" for name in couple.__all__ if importlib.util.find_spec(f"couple.{name}"))]
    packages = [f"backends.{found.name}" for found in pkgutil.iter_modules(backends.__path__) if found.ispkg]
    modules += [f"couple.{name}" for name in (*BESIDE, *packages)]
    return {f"{module}.{name}" for module in modules for name in public(module)}


def public(module: str) -> list[str]:
    """What a module says is public; if it does not say, the functions and classes that it defines."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return list(loaded.__all__)
    tree = ast.parse(inspect.getsource(loaded))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in names if not name.startswith("_")]


def fetched(site: Path) -> list[str]:
    """What a browser would load from elsewhere."""
    found = []
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        found += re.findall(r'<(?:script|img|iframe)[^>]*src="(https?:[^"]+)"', text)
        found += re.findall(r'<link[^>]*href="(https?:[^"]+)"[^>]*rel="(?:stylesheet|preconnect|preload)"', text)
        found += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|preload)"[^>]*href="(https?:[^"]+)"', text)
    return found
