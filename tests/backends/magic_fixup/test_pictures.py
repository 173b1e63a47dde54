"""What the networks see of an edit, against the authors' preparation, and what is refused."""

import sys

import pytest
import torch
from PIL import Image
from torch.nn import functional

from couple.backends.magic_fixup.pictures import as_tensor, fill_holes, latent_mask
from tests.backends.magic_fixup.official import GOLDEN
from tests.tiny.building import picture
from tests.tiny.magic_fixup import edit

SIDE = 512
CROP = (slice(120, 280), slice(152, 344))


def enlarged(key):
    pixels = GOLDEN[key]
    factor = SIDE // len(pixels)
    return Image.fromarray(pixels.repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy())


@pytest.fixture(scope="module")
def rgba():
    return as_tensor([enlarged("image.edit_rgba")], "RGBA", "edits")


def means(rgb):
    return functional.avg_pool2d(2 * rgb - 1, SIDE // GOLDEN["image.ref_mean8"].shape[-1])


def test_holes_are_filled_as_the_authors_do(rgba):
    filled = fill_holes(rgba)
    pixels = (filled[0, :, *CROP] * 255).round().int()
    assert (pixels - GOLDEN["image.inpainted_crop"].int()).abs().max() <= 1
    torch.testing.assert_close(means(filled), GOLDEN["image.inpainted_mean8"], atol=1e-5, rtol=0)


def test_the_reference_is_not_touched():
    rgb = as_tensor([enlarged("image.ref_rgb")], "RGB", "references")
    torch.testing.assert_close(means(rgb), GOLDEN["image.ref_mean8"], atol=1e-5, rtol=0)


def test_the_mask_is_alpha_at_the_size_of_the_latents(rgba):
    expected = GOLDEN["image.mask64"]
    torch.testing.assert_close(latent_mask(rgba, *expected.shape[-2:]), expected, atol=1e-5, rtol=0)


def test_pictures_without_holes_need_no_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    whole = as_tensor([picture(0, 16).convert("RGBA")], "RGBA", "edits")
    assert (fill_holes(whole) - whole[:, :3]).abs().max() <= 1.01 / 255


def test_holes_without_opencv_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install 'couple\[edit\]'"):
        fill_holes(as_tensor([edit(0)], "RGBA", "edits"))


def test_pictures_and_tensors_are_the_same():
    pictures = [edit(0), edit(1)]
    tensor = as_tensor(pictures, "RGBA", "edits")
    assert tensor.shape == (2, 4, 16, 16)
    assert torch.equal(as_tensor(tensor, "RGBA", "edits"), tensor)


@pytest.mark.parametrize(
    "pictures, error, message",
    [
        ([], ValueError, "at least one; got none"),
        ([edit(0), edit(1, 32)], ValueError, "of one size, at least one; got 16 x 16, 32 x 32"),
        ([edit(0), picture(0, 16)], ValueError, r"`edits\[1\]` has mode RGB; its alpha .* picture.convert\('RGBA'\)"),
        (edit(0), TypeError, "`edits` must be a list of PIL pictures or a tensor"),
        (torch.zeros(1, 3, 16, 16), ValueError, r"shape \(1, 3, 16, 16\); expected \(V, 4, H, W\)"),
        (torch.zeros(1, 4, 16, 16, dtype=torch.uint8), ValueError, r"in \[0, 1\], e.g. edits.float\(\) / 255"),
        (torch.full((1, 4, 16, 16), torch.nan), ValueError, r"in \[0, 1\]"),
    ],
    ids=["none", "sizes", "mode", "single", "shape", "bytes", "nan"],
)
def test_other_pictures_are_refused(pictures, error, message):
    with pytest.raises(error, match=message):
        as_tensor(pictures, "RGBA", "edits")
