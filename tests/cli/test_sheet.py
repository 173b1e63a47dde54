"""The contact sheet holds every picture, large enough to see, under its label."""

import pytest
from PIL import Image

from couple.cli.sheet import Row, contact_sheet

RED, BLUE = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")


def test_small_pictures_are_enlarged_and_lie_in_their_rows_and_columns():
    sheet = contact_sheet([Row("one", "", [RED, BLUE]), Row("two", "", [BLUE, RED])], ["a", "b"], height=100)
    colours = sheet.getcolors(1 << 24) or []
    areas = {colour: count for count, colour in colours}
    assert areas[(255, 0, 0)] == areas[(0, 0, 255)] == 2 * 100 * 100
    assert sheet.width > 200 and sheet.height > 200


def test_wide_and_large_pictures_keep_their_shape():
    sheet = contact_sheet([Row("one", "", [Image.new("RGB", (800, 400), "red")])], ["a"], height=100)
    areas = {colour: count for count, colour in sheet.getcolors(1 << 24) or []}
    assert areas[(255, 0, 0)] == 200 * 100


def test_a_long_label_does_not_widen_the_sheet():
    short = contact_sheet([Row("one", "", [RED])], ["a"])
    for label in ("many words " * 30, "x" * 300):
        assert contact_sheet([Row("one", "", [RED])], [label]).width == short.width


def test_a_long_note_is_broken_into_lines():
    short, long = (contact_sheet([Row("one", "word " * count, [RED])], ["a"]) for count in (6, 12))
    assert long.size == short.size
    assert long.getcolors(1 << 24) != short.getcolors(1 << 24)


def test_a_group_of_rows_is_set_apart():
    plain = contact_sheet([Row("one", "", [RED]), Row("two", "", [BLUE])], ["a"])
    apart = contact_sheet([Row("one", "", [RED], apart=True), Row("two", "", [BLUE], apart=True)], ["a"])
    assert apart.height > plain.height and apart.getpixel((apart.width // 2, 80)) == (255, 0, 0)


def test_rows_and_labels_must_agree_in_number():
    with pytest.raises(ValueError, match="row 'one' has 1 pictures for 2 labels"):
        contact_sheet([Row("one", "", [RED])], ["a", "b"])
