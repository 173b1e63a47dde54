"""Do hostile recipes, records, pictures and scenes get anything but a named error?

    pip install atheris
    python benchmarks/fuzzing.py --runs 25000

Each target is fuzzed by atheris, guided by coverage, in a process of its own, from the good file on: `--runs` inputs,
or `--seconds` if they are over first. An input that raises anything but the named errors, or leaves a file behind, ends
the target and is printed. The same targets are fuzzed by hypothesis in `tests/recipe/test_hostile.py`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

TARGETS = ("recipe", "record", "record-in-png", "png", "gif", "mp4", "scene")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=25_000, help="inputs of each target")
    parser.add_argument("--seconds", type=int, default=120, help="at most so long for each target")
    parser.add_argument("--only", choices=TARGETS, help="one target")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        fuzz(chosen.only, chosen.runs, chosen.seconds)
        return
    total, found = 0, 0
    for target in (chosen.only,) if chosen.only else TARGETS:
        options = ["--inside", "--only", target, "--runs", str(chosen.runs), "--seconds", str(chosen.seconds)]
        started = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, errors="replace")
        said = done.stdout + done.stderr
        counts = [
            int(count)
            for count in re.findall(r"^#(\d+)\s|Done (\d+) (?:runs|in)", said, re.MULTILINE)
            for count in count
            if count
        ]
        count = max(counts, default=0)
        total, found = total + count, found + bool(done.returncode)
        print(f"{target:>14}: {count:7d} inputs in {time.perf_counter() - started:4.0f} s, exit code {done.returncode}")
        if done.returncode:
            print(said[-4000:])
    print(f"{total} inputs, {found} targets with a finding")
    sys.exit(bool(found))


def fuzz(target: str, runs: int, seconds: int) -> None:
    """Fuzz one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["couple.recipe", "couple.cli", "couple.scenes", "tomllib"]):
        from tests.recipe import hostile
    folder = Path(tempfile.mkdtemp())
    (folder / "world").mkdir()
    world = hostile.World(folder / "world")
    good = {
        "recipe": hostile.RECIPE.encode(),
        "record": hostile.json.dumps(hostile.RECORD).encode(),
        "png": world.png,
        "gif": world.gif,
        "mp4": world.mp4,
        "scene": world.scene,
    }
    good["record-in-png"] = good["record"]
    act: dict[str, Callable[[bytes], bool]] = {
        "recipe": world.recipe,
        "record": world.record,
        "record-in-png": lambda data: world.record(hostile.in_png(world.plain, data), ".png"),
        "png": lambda data: world.record(data, ".png"),
        "gif": lambda data: world.record(data, ".gif"),
        "mp4": lambda data: world.record(data, ".mp4"),
        "scene": world.scene_file,
    }
    assert act[target](good[target]), "the good file is refused"
    tried = 0

    def one(data: bytes) -> None:
        nonlocal tried
        act[target](data)
        tried += 1
        if tried % 500 == 0:
            assert world.untouched(), "a file was left behind"

    (folder / "corpus").mkdir()
    (folder / "corpus" / "good").write_bytes(good[target])
    words = [word.encode("utf-8", "surrogatepass") for word in hostile.WORDS]
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in escaped))
    limits = [f"-runs={runs}", f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=4096"]
    files = [f"-dict={folder / 'words'}", f"-artifact_prefix={folder}/", str(folder / "corpus")]
    atheris.Setup([sys.argv[0], *limits, *files], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
