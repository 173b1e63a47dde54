"""The record is in every picture and clip, whole, and no pixel knows of it."""

import json
import os

import imageio.v3
import numpy as np
import pytest
from PIL import Image

from couple.cli import stamp
from couple.cli.clips import write_gif, write_mp4
from couple.cli.record import Batch, Machine, Record

PROMPTS = ["a; b = c # d \\ e\n[f]\n;FFMETADATA1", 'quotes " and \' and é and 星 and {"layout": 2}', "\x00\x1b[0m"]


@pytest.fixture
def record():
    return Record(
        command="image",
        arguments=["couple"],
        request={"prompts": PROMPTS},
        finished="then",
        versions={},
        machine=Machine(system="Linux", device="cpu", threads=1),
        models={},
        inputs={},
        edges=["e" * 1000] * 40,
        batch=Batch(max_batch=None, forwards=0, steps=[]),
        seconds={},
        warnings=[],
        results={},
    )


@pytest.fixture
def frames():
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in noise]


def test_every_file_of_a_folder_gets_the_whole_record_and_keeps_its_pixels(tmp_path, record, frames):
    (tmp_path / "deep").mkdir()
    for i, mode in enumerate(("RGB", "L", "RGBA", "P")):
        frames[0].convert(mode).save(tmp_path / "deep" / f"{i}.png")
    write_gif(tmp_path / "clip.gif", frames, fps=8)
    write_mp4(tmp_path / "clip.mp4", frames, fps=8)
    files = sorted(path for path in tmp_path.rglob("*.*"))
    before = [imageio.v3.imread(path) for path in files]
    stamp.finish(tmp_path, record)
    assert sorted(path for path in tmp_path.rglob("*.*")) == sorted([*files, tmp_path / "run.json"])
    written = record.model_copy(update={"files": [path.relative_to(tmp_path).as_posix() for path in files]})
    for path, pixels in zip(files, before, strict=True):
        assert np.array_equal(imageio.v3.imread(path), pixels)
        assert stamp.read(path) == written
    assert stamp.read(tmp_path / "run.json") == written
    about = imageio.v3.immeta(tmp_path / "clip.mp4", plugin="FFMPEG")
    assert about["fps"] == 8 and about["codec"] == "h264"
    with Image.open(tmp_path / "clip.gif") as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0


def test_the_record_in_a_png_is_a_text_that_any_reader_shows(tmp_path, record, frames):
    frames[0].save(tmp_path / "a.png")
    stamp.finish(tmp_path, record)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert json.loads(picture.info["couple"])["request"]["prompts"] == PROMPTS


def test_a_video_still_plays_from_its_first_bytes(tmp_path, record, frames):
    write_mp4(tmp_path / "clip.mp4", frames, fps=8)
    stamp.finish(tmp_path, record)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("kind", ["png", "gif", "mp4"])
def test_files_without_a_record_say_so(tmp_path, frames, kind):
    path = tmp_path / f"a.{kind}"
    {
        "png": lambda: frames[0].save(path),
        "gif": lambda: write_gif(path, frames, 8),
        "mp4": lambda: write_mp4(path, frames, 8),
    }[kind]()
    with pytest.raises(ValueError, match="holds no record"):
        stamp.read(path)


@pytest.mark.parametrize("kind", ["png", "gif", "mp4"])
def test_a_file_cut_anywhere_is_read_or_refused(tmp_path, record, frames, kind):
    whole = tmp_path / f"whole.{kind}"
    {
        "png": lambda: frames[0].save(whole),
        "gif": lambda: write_gif(whole, frames, 8),
        "mp4": lambda: write_mp4(whole, frames, 8),
    }[kind]()
    stamp.finish(tmp_path, record)
    data, cut = whole.read_bytes(), tmp_path / f"cut.{kind}"
    for length in range(0, len(data), max(len(data) // 150, 1)):
        cut.write_bytes(data[:length])
        try:
            assert stamp.read(cut) == record.model_copy(update={"files": [whole.name]})
        except ValueError as error:
            assert "\n" not in str(error)


def test_a_box_that_says_it_is_endless_ends(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\1moov" + b"\xff" * 8 + os.urandom(100))
    with pytest.raises(ValueError, match="holds no record"):
        stamp.read(path)
    path.write_bytes(b"\0\0\0\x08free" * 50_000)
    with pytest.raises(ValueError, match="holds no record"):
        stamp.read(path)
