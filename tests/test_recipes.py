"""The recipes run as they are."""

from pathlib import Path

import pytest
from PIL import Image

from recipes import text_to_image

PROMPTS = ["a pink star", "a blue moon"]


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


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[1] / "recipes").glob("*.py")), ids=lambda path: path.name
)
def test_a_recipe_is_short_enough_to_read_at_once(recipe):
    assert len(recipe.read_text().splitlines()) <= 100


def test_the_text_to_image_recipe_stays_under_60_lines():
    assert len(Path(text_to_image.__file__).read_text().splitlines()) < 60
