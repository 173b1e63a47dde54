"""The contact sheet holds every picture, large enough to see, under its label."""

import pytest
from PIL import Image

from couple.cli import lettering
from couple.cli.lettering import lettered, plain
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


@pytest.fixture
def bare(monkeypatch):
    """A system without fonts."""
    monkeypatch.setattr(lettering.shutil, "which", lambda name: None)
    monkeypatch.setattr(lettering, "_NAMES", ())
    lettered.cache_clear()
    yield
    lettered.cache_clear()


def test_english_is_in_one_font_everywhere():
    text, font = lettered("a pink star, 5.5 px (coupled)", 19)
    assert text == "a pink star, 5.5 px (coupled)" and font.getname() == plain(19).getname()


def test_letters_that_no_font_has_stand_as_their_code_points(bare):
    assert lettered("a \u65e5\u672c moon", 19)[0] == "a U+65E5 U+672C moon"
    moon = contact_sheet([Row("one", "", [RED])], ["\u6708"])
    assert moon.tobytes() == contact_sheet([Row("one", "", [RED])], ["U+6708"]).tobytes()
    assert moon.tobytes() != contact_sheet([Row("one", "", [RED])], ["\u65e5"]).tobytes()


def test_a_font_of_the_system_is_used_where_it_has_the_letters():
    lettered.cache_clear()
    moon = "\u043b\u0443\u043d\u0430"
    text, font = lettered(moon, 19)
    if text != moon:
        pytest.skip("no font with Cyrillic letters here; apt-get install fonts-dejavu-core")
    # Each letter has a form of its own, and none that of a letter that is missing.
    assert len({bytes(font.getmask(letter)) for letter in [*moon, "\uffff"]}) == 5
