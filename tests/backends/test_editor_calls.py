"""What editors are shown of a scene, against pixels written by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from couple.backends import editor_calls
from couple.bundled import CANNY_THRESHOLDS
from couple.scenes import load, moving
from tests.scenes import geometry, samples


@pytest.fixture
def scene(tmp_path):
    geometry.nerfstudio(tmp_path)
    return load(tmp_path)


def pixels(picture):
    return np.asarray(picture).astype(int)


def test_edges_are_white_lines_where_colours_change(scene):
    call = editor_calls.arguments("controlnet", scene, prompt="snow")
    assert call["prompt"] == ["snow"] * 4 and (call["height"], call["width"]) == (samples.HEIGHT, samples.WIDTH)
    lines = pixels(call["image"][0])
    assert set(np.unique(lines)) == {0, 255}
    assert not lines[:8].any() and not lines[13:20, 21:28].any() and lines[8:12, 20:28].any()


def test_the_bundled_editor_sees_finer_edges(tmp_path):
    faint = np.full((16, 16, 3), 100, np.uint8)
    faint[:, 8:] = 140
    picture = [Image.fromarray(faint)]
    assert pixels(editor_calls.edges(picture, CANNY_THRESHOLDS)[0])[4:12, 6:10].any()
    assert not pixels(editor_calls.edges(picture, (100, 200))[0]).any()


def test_depths_are_grey_alike_in_all_views(scene):
    images = [pixels(image) for image in editor_calls.arguments("controlnet", scene, condition="depth")["image"]]
    distances = [geometry.distance(i) for i in range(4)]
    nearest = int(np.argmin(distances))
    assert images[nearest][15, 20].tolist() == [255, 255, 255]
    low = 1 / (max(distances) + geometry.BEHIND)
    high = 1 / min(distances)
    for image, distance in zip(images, distances, strict=True):
        assert image[15, 20, 0] == pytest.approx(255 * (1 / distance - low) / (high - low), abs=1)
        assert (image[:4] == 0).all()


def test_editors_of_pictures_see_the_pictures_or_the_coarse_edit(scene):
    plain = editor_calls.arguments("instruct", scene, prompt="gold")
    assert [p.tobytes() for p in plain["image"]] == [p.tobytes() for p in scene.pictures()]
    coarse = moving.moved(scene, (0.0, 0.0, 0.3))
    moved = editor_calls.arguments("img2img", scene, prompt="gold", coarse=coarse, strength=0.5)
    assert moved["strength"] == 0.5
    far_from_holes = pixels(moved["image"][0])[:2]
    assert (far_from_holes == pixels(scene.picture(0))[:2]).all()
    assert pixels(moved["image"][0]).tolist() != pixels(scene.picture(0)).tolist()


def test_the_bundled_editor_sees_grey_holes(scene):
    coarse = moving.moved(scene, (0.0, 0.0, 0.3))
    image = pixels(editor_calls.arguments("instruct", scene, prompt="x", coarse=coarse, bundled=True)["image"][0])
    holes = coarse.holes[0].numpy()
    assert holes.any() and (image[holes] == 128).all()
    assert (image[~holes] == coarse.rgba[0, :3].permute(1, 2, 0).mul(255).round().int().numpy()[~holes]).all()


def test_ic_light_gets_the_masks_as_mattes(scene):
    call = editor_calls.arguments("ic-light", scene, prompt="sunset")
    assert torch.equal(call["alpha"], torch.stack([scene.mask(i) for i in range(4)]).float())
    assert "background" not in call
    background = Image.new("RGB", (8, 8))
    assert editor_calls.arguments("ic-light", scene, prompt="x", background=background)["background"] is background


def test_without_masks_ic_light_goes_by_transparency(tmp_path):
    samples.blender(tmp_path)
    call = editor_calls.arguments("ic-light", load(tmp_path), prompt="sunset")
    assert call["alpha"] is None and {picture.mode for picture in call["images"]} == {"RGBA"}


def test_neural_gaffer_gets_the_object_on_white_with_its_cameras(scene):
    light = torch.ones(4, 8, 3)
    call = editor_calls.arguments("neural-gaffer", scene, environment_map=light)
    picture = pixels(call["images"][1])
    assert picture[0, 0].tolist() == [255, 255, 255] and tuple(picture[15, 20]) == samples.COLOURS[1]
    assert call["environment_map"] is light and call["cameras"] is scene.cameras


def test_magic_fixup_gets_the_coarse_edit_with_its_holes_and_the_originals(scene):
    coarse = moving.moved(scene, (0.0, 0.0, 0.3))
    call = editor_calls.arguments("magic-fixup", scene, coarse=coarse)
    assert call["edits"] is coarse.rgba and len(call["references"]) == 4
    with pytest.raises(ValueError, match="give `coarse`"):
        editor_calls.arguments("magic-fixup", scene)


def test_a_light_may_be_a_picture_or_radiance(tmp_path):
    Image.new("RGB", (4, 2), (255, 128, 0)).save(tmp_path / "light.png")
    light = editor_calls.read_light(tmp_path / "light.png")
    assert light.shape == (2, 4, 3)
    assert light[0, 0].tolist() == pytest.approx([1.0, (128 / 255) ** 2.2, 0.0], abs=1e-6)
    np.save(tmp_path / "light.npy", np.full((2, 4, 3), 7.0))
    assert editor_calls.read_light(tmp_path / "light.npy").max() == 7
    with pytest.raises(FileNotFoundError):
        editor_calls.read_light(tmp_path / "none.png")


def test_an_unknown_editor_is_named(scene):
    with pytest.raises(ValueError, match="editor 'paint' is unknown"):
        editor_calls.arguments("paint", scene)
