"""Bad scenes given to `couple edit`: one clear sentence, no traceback, nothing written."""

import json

import numpy as np
import pytest
from PIL import Image

from couple.cli import run
from tests.scenes import geometry, samples


def frames(change):
    """A change to the first frame."""
    return lambda folder, data: change(data["frames"][0])


def truncate(name):
    def change(folder, data):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return change


def replace(name, array):
    return lambda folder, data: Image.fromarray(array).save(folder / name)


def many(folder, data):
    data["frames"] = [{}] * 100_000


def mirrored(frame):
    frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * [1, -1, 1, 1]).tolist()


def nan_pose(frame):
    frame["transform_matrix"][1][3] = float("nan")


BAD = {
    "missing picture": (lambda folder, data: (folder / "images/2.png").unlink(), r"frame 2 .*there is no picture"),
    "missing depth": (lambda folder, data: (folder / "depth/2.png").unlink(), r"frame 2 .*there is no picture .*depth"),
    "singular intrinsics": (lambda folder, data: data.update(fl_x=0.0), r"the focal length `fl_x` is 0"),
    "nan pose": (frames(nan_pose), r"frame 0 .*transform_matrix\[1\]\[3\]` is nan; expected a number"),
    "mixed sizes": (replace("images/1.png", np.zeros((8, 9, 3), np.uint8)), r"frame 1 .*8 x 9 pixels and .*32 x 48"),
    "path outside": (frames(lambda frame: frame.update(file_path="../secret.png")), r"`file_path` is '../secret.png'"),
    "many frames": (many, r"has 100000 frames; expected 1 to 10000"),
    "truncated picture": (truncate("images/0.png"), r"frame 0 .*cannot be used as a picture"),
    "truncated mask": (truncate("masks/0.png"), r"frame 0 .*masks/0.png cannot be used as a picture"),
    "mirrored world": (
        lambda folder, data: data.update(applied_transform=np.diag([-1.0, 1, 1, 1])[:3].tolist()),
        r"`applied_transform` is mirrored or singular",
    ),
    "mirrored pose": (frames(mirrored), r"frame 0 .*is mirrored \(left-handed axes\)"),
    "distorted": (lambda folder, data: data.update(k1=0.1), r"`k1` is 0.1, so its picture is distorted"),
    "one view": (lambda folder, data: data.update(frames=data["frames"][:1]), r"the scene has one view"),
    "no json": (lambda folder, data: None, r"is not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_scene_is_told_in_a_sentence(kind, tmp_path, capsys, monkeypatch):
    change, message = BAD[kind]
    folder = tmp_path / "scene"
    folder.mkdir()
    data = geometry.nerfstudio(folder)
    change(folder, data)
    samples.write(folder, data)
    if kind == "no json":
        (folder / "transforms.json").write_text(json.dumps(data)[:-9])
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out" / "run"
    assert run(["edit", str(folder), "--multiview", "seva", "--prompt", "x", "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("couple: ") and told.err.count("\n") == 1 and not told.out
    with pytest.raises(ValueError, match=message):
        raise ValueError(told.err)
    assert sorted(tmp_path.rglob("*")) == before
