"""The page of a run: what is on it, that it is safe, and how it looks in a browser."""

import json
import os
import shutil
import subprocess
import webbrowser
from html.parser import HTMLParser

import numpy as np
import pytest
import typer
from PIL import Image

from couple.cli import page
from couple.cli.view import view

RED, BLUE = (255, 0, 0), (0, 0, 255)
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=1 --window-size=1240,900"
).split()
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")


def run(arguments):
    app = typer.Typer(add_completion=False)
    app.command()(view)
    return app([str(argument) for argument in arguments], prog_name="couple", standalone_mode=False)


def picture(path, colour, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a run"
    picture(folder / "uncoupled-1-star.png", RED)
    picture(folder / "coupled-1-star.png", BLUE)
    picture(folder / "previews" / "step-0001-1-star.png", RED)
    picture(folder / "filmstrip.png", (0, 255, 0), (3000, 200))
    picture(folder / "sheet.png", (0, 255, 255))
    (folder / "run.json").write_text(json.dumps({"command": "image", "seeds": [1, 2], "nested": {"a": [1]}}))
    return folder


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and the text in them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def values(self, tag, attribute):
        return [found[attribute] for name, found in self.elements if name == tag and attribute in found]


def test_the_page_offers_the_samples_and_shows_the_overviews_and_the_record(folder):
    found = Page(page.page(folder))
    offered = ["./coupled-1-star.png", "./uncoupled-1-star.png"]
    assert found.values("option", "value") == offered * 2
    chosen = [value["value"] for tag, value in found.elements if tag == "option" and "selected" in value]
    assert chosen == offered[::-1]
    assert found.values("img", "src") == ["./sheet.png", "./filmstrip.png"]
    assert found.values("button", "data-mode") == ["side", "slider", "blink", "difference"]
    assert "a run" in found.text and '"seeds": [1, 2]' in found.text
    assert not [value for tag in ("img", "script", "link", "video") for value in found.values(tag, "href")]


def test_scenes_and_videos_are_offered_too(tmp_path):
    for way in ("per-image", "coupled"):
        picture(tmp_path / way / "images" / "0001.png", RED)
        picture(tmp_path / way / "depth" / "0001.png", RED)
    for name in ("uncoupled-1-a.mp4", "coupled-1-a.mp4", "side-by-side.mp4", "uncoupled-1-a.gif"):
        (tmp_path / name).write_bytes(b"")
    found = Page(page.page(tmp_path))
    paths = ["coupled-1-a.mp4", "coupled/images/0001.png", "per-image/images/0001.png", "uncoupled-1-a.mp4"]
    assert found.values("option", "value")[:4] == [f"./{path}" for path in paths]
    assert found.values("video", "src") == ["./side-by-side.mp4"]


def test_the_first_two_are_one_sample_without_and_with_the_coupling_in_a_folder_of_runs_too(tmp_path):
    for name in ("coupled-1-a.png", "coupled-2-a.png", "uncoupled-1-a.png", "uncoupled-2-a.png"):
        picture(tmp_path / "weight=0.1" / name, RED)
    chosen = [value["value"] for tag, value in Page(page.page(tmp_path)).elements if "selected" in value]
    assert chosen == ["./weight%3D0.1/uncoupled-1-a.png", "./weight%3D0.1/coupled-1-a.png"]


def test_the_record_is_keys_and_values_with_what_is_nested_folded(folder):
    deep = {"request": {"size": None, "compile": False}, "models": {"a": {"kind": "b"}}, "prompts": ["x", "<y>"]}
    (folder / "run.json").write_text(json.dumps(deep))
    text = page.page(folder)
    table = text[text.index("<table>") : text.index("<details><summary>run.json")]
    assert "{" not in table and "null" not in table
    assert "<td>size</td><td>-</td>" in table and "<td>compile</td><td>no</td>" in table
    assert "<td>prompts</td><td>x, &lt;y&gt;</td>" in table and "<td>kind</td><td>b</td>" in table
    folds = [attributes for tag, attributes in Page(table).elements if tag == "details"]
    assert ["open" in fold for fold in folds] == [True, False, True]  # request, models, a


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "</pre></script><svg onload=x>")


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_records_are_text_and_nothing_else(tmp_path, folder, text):
    plain = [tag for tag, _ in Page(page.page(folder)).elements]
    hostile = tmp_path / text.replace("/", ":")
    folder.rename(hostile)
    (hostile / "coupled-1-star.png").rename(hostile / f"coupled-1-{hostile.name}.png")
    (hostile / "run.json").write_text(json.dumps({"command": text, text: text, "more": {text: [text]}}))
    found = Page(page.page(hostile))
    assert [tag for tag, _ in found.elements] == plain
    assert all(not name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert text in found.text and hostile.name in found.text
    assert all(value.startswith("./") for value in found.values("option", "value"))


def test_the_policy_lets_nothing_in_but_local_pictures_and_the_script_of_the_page(folder):
    text = page.page(folder)
    (policy,) = Page(text).values("meta", "content")[:1]
    assert policy.startswith("default-src 'none'") and "://" not in text and "unsafe-eval" not in policy
    assert text.count("<script") == 1


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[" * 100_000, b"\xff\xfe\x00", b'"text"', b'{"a": ' + b"1" * 300_000 + b"}", b"[1]", b"NaN"]
)
def test_a_record_that_is_none_is_shown_as_it_is(folder, record):
    (folder / "run.json").write_bytes(record)
    text = page.page(folder)
    assert text.count("<pre>") == 1 and len(text) < 10**6


def test_links_out_of_the_folder_are_not_followed(tmp_path, folder):
    outside = tmp_path / "outside"
    picture(outside / "secret.png", RED)
    os.symlink(outside, folder / "in")
    os.symlink(outside / "secret.png", folder / "secret.png")
    (folder / "run.json").unlink()
    os.symlink(outside / "secret.png", folder / "run.json")
    text = page.page(folder)
    assert "secret" not in text and "<pre>" not in text


def test_the_command_writes_the_page_and_opens_it_unless_told_otherwise(folder, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    run([folder, "--no-open"])
    assert opened == [] and capsys.readouterr().out == f"{folder / 'view.html'}\n"
    first = (folder / "view.html").read_bytes()
    run([folder])
    assert opened == [(folder / "view.html").as_uri()] and (folder / "view.html").read_bytes() == first


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(typer.exceptions.TyperException, match="is no folder; name what a run left behind"):
        run([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"holds no run: no run.json"):
        run([tmp_path])
    assert list(tmp_path.iterdir()) == []


# In a browser: each way of comparing has its own colours where A is red and B is blue. Without the page's script
# there would be no picture.


def shot(folder, fragment, tmp_path):
    (folder / "view.html").write_text(page.page(folder))
    target = tmp_path / "shot.png"
    subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={target}",
            (folder / "view.html").as_uri() + fragment,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return np.asarray(Image.open(target).convert("RGB")).astype(int)


def boxes(pixels, colour):
    """Left, right and area of the pixels of a colour, None if there are none."""
    where = (np.abs(pixels - np.array(colour)).max(2) < 8).nonzero()
    return None if len(where[0]) < 1000 else (where[1].min(), where[1].max() + 1, len(where[0]))


@browser
def test_side_by_side_in_a_browser(folder, tmp_path):
    pixels = shot(folder, "", tmp_path)
    red, blue = boxes(pixels, RED), boxes(pixels, BLUE)
    assert red[1] < blue[0] and red[2] == blue[2] > 200_000


@browser
def test_the_slider_in_a_browser(folder, tmp_path):
    pixels = shot(folder, "#slider", tmp_path)
    red, blue = boxes(pixels, RED), boxes(pixels, BLUE)
    assert abs(red[1] - blue[0]) <= 1 and abs(red[2] - blue[2]) < 2000
    assert blue[1] - red[0] == 640


@browser
def test_the_difference_in_a_browser(folder, tmp_path):
    pixels = shot(folder, "#difference", tmp_path)
    assert boxes(pixels, RED) is boxes(pixels, BLUE) is None
    assert boxes(pixels, (255, 0, 255))[2] == 640 * 640


@browser
def test_blinking_shows_one_at_a_time_in_a_browser(folder, tmp_path):
    pixels = shot(folder, "#blink", tmp_path)
    shown = [box for colour in (RED, BLUE) if (box := boxes(pixels, colour))]
    assert [box[2] for box in shown] == [640 * 640]


@browser
def test_a_hostile_folder_in_a_browser(folder, tmp_path):
    name = "coupled-1-star#?%20\"'<img src=x onerror=document.body.remove()>.png"
    (folder / "coupled-1-star.png").rename(folder / name)
    (folder / "uncoupled-1-star.png").rename(folder / f"un{name}")
    (folder / "run.json").write_text("</pre><script>document.body.remove()</script>")
    pixels = shot(folder, "", tmp_path)
    assert boxes(pixels, RED)[2] == boxes(pixels, BLUE)[2] > 200_000


@browser
def test_a_filmstrip_wider_than_the_page_says_that_it_goes_on(folder, tmp_path):
    def hint(width):
        picture(folder / "filmstrip.png", (0, 255, 0), (width, 200))
        (folder / "view.html").write_text(page.page(folder))
        address = (folder / "view.html").as_uri()
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *FLAGS, profile, "--virtual-time-budget=2000", "--dump-dom", address]
        dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
        (paragraph,) = [attributes for tag, attributes in Page(dom).elements if tag == "p"]
        return "hidden" not in paragraph

    assert hint(3000) and not hint(300)
