"""The recipes run as they are."""

from pathlib import Path

import imageio.v3
import pytest
from PIL import Image

import couple
from recipes import multiview_edit, text_to_image, text_to_video
from tests.scenes import geometry
from tests.tiny import FAMILIES

PROMPTS = ["a pink star", "a blue moon"]
FILMS = ["a pink star circles", "a blue square circles"]


def test_the_text_to_image_recipe_saves_each_picture_and_a_sheet(tmp_path, capsys):
    text_to_image.main([*PROMPTS, "--steps", "2", "--out", str(tmp_path / "run")])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"uncoupled-1.png", "uncoupled-2.png", "coupled-1.png", "coupled-2.png", "sheet.png"}
    sheet = tmp_path / "run" / "sheet.png"
    assert capsys.readouterr().out.strip() == str(sheet)
    assert min(Image.open(sheet).size) > 500


def test_at_weight_0_both_rows_of_the_recipe_are_the_same_pictures(tmp_path):
    text_to_image.main([*PROMPTS, "--steps", "2", "--weight", "0", "--out", str(tmp_path)])
    for i in (1, 2):
        assert (tmp_path / f"coupled-{i}.png").read_bytes() == (tmp_path / f"uncoupled-{i}.png").read_bytes()


def test_the_text_to_video_recipe_saves_each_clip_and_all_side_by_side(tmp_path, capsys):
    text_to_video.main([*FILMS, "--steps", "2", "--out", str(tmp_path / "run")])
    clips = {f"{row}-{i}.{kind}" for row in ("uncoupled", "coupled") for i in (1, 2) for kind in ("mp4", "gif")}
    assert {path.name for path in (tmp_path / "run").iterdir()} == clips | {"side-by-side.mp4"}
    together = tmp_path / "run" / "side-by-side.mp4"
    assert capsys.readouterr().out.strip() == str(together)
    frames = imageio.v3.imread(together, plugin="FFMPEG")
    assert frames.shape[0] == 13 and min(frames.shape[1:3]) > 500


def test_at_weight_0_both_rows_of_the_recipe_are_the_same_videos(tmp_path):
    text_to_video.main([*FILMS, "--steps", "2", "--weight", "0", "--out", str(tmp_path)])
    for i in (1, 2):
        assert (tmp_path / f"coupled-{i}.mp4").read_bytes() == (tmp_path / f"uncoupled-{i}.mp4").read_bytes()


def test_the_multiview_edit_recipe_saves_each_way_as_a_scene(tmp_path, capsys):
    (tmp_path / "scene").mkdir()
    geometry.nerfstudio(tmp_path / "scene")
    for name, family in (("editor", "instruct_pix2pix"), ("views", "seva")):
        FAMILIES[family].pipeline().save_pretrained(tmp_path / name)
    models = ["--editor-model", str(tmp_path / "editor"), "--multiview-model", str(tmp_path / "views")]
    chosen = ["--editor", "instruct", "--multiview", "seva", "--views", "3", "--size", "16", "--steps", "2"]
    multiview_edit.main([str(tmp_path / "scene"), *chosen, *models, "--out", str(tmp_path / "run")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "run/sheet.png")
    ways = {"input", "per-image", "image-to-multi-view", "coupled"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*ways, "sheet.png", "orbit.mp4", "run.json"}
    scenes = {way: couple.scenes.load(tmp_path / "run" / way) for way in ways}
    assert {len(scene) for scene in scenes.values()} == {3}
    made = [scenes[way].picture(1).tobytes() for way in ("image-to-multi-view", "coupled")]
    assert made[0] != made[1]


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[1] / "recipes").glob("*.py")), ids=lambda path: path.name
)
def test_a_recipe_is_short_enough_to_read_at_once(recipe):
    assert len(recipe.read_text().splitlines()) <= 100


def test_the_text_to_image_recipe_stays_under_60_lines():
    assert len(Path(text_to_image.__file__).read_text().splitlines()) < 60
