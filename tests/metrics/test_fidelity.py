"""PSNR, SSIM, LPIPS and CLIP score against their formulas, and against torchmetrics where it takes what we take."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from couple.metrics.fidelity import clip_score, lpips, psnr, ssim
from tests.tiny.building import clip_tokenizer


def pair(count=2, size=48):
    gen = torch.Generator().manual_seed(0)
    references = torch.rand(count, 3, size, size, generator=gen)
    return (references + 0.1 * torch.randn(references.shape, generator=gen)).clamp(0, 1), references


def test_psnr_is_taken_of_each_picture():
    references = torch.full((3, 3, 8, 8), 0.5)
    pictures = references + torch.tensor([0.1, 0.01, 0.0])[:, None, None, None]
    torch.testing.assert_close(psnr(pictures, references), torch.tensor([20.0, 40.0, math.inf]), atol=1e-3, rtol=0)


def test_ssim_is_the_formula_of_wang_on_mirrored_borders():
    pictures, references = pair()
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    expected = []
    for a, b in zip(pictures.double().numpy(), references.double().numpy(), strict=True):
        values = []
        for x, y in zip(a, b, strict=True):
            mean = lambda z: correlate(z, window, mode="mirror")  # noqa: E731
            mx, my = mean(x), mean(y)
            vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
            score = (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
            values.append(score.mean())
        expected.append(np.mean(values))
    torch.testing.assert_close(ssim(pictures, references).double(), torch.tensor(expected), atol=1e-4, rtol=0)
    assert ssim(references[:1], references[:1]).tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("measure", [psnr, ssim, lpips])
@pytest.mark.parametrize(
    ("pictures", "references", "message"),
    [
        (torch.zeros(3, 48, 48), torch.zeros(3, 48, 48), r"`pictures` has shape \(3, 48, 48\)"),
        (torch.zeros(1, 3, 48, 48), torch.full((1, 3, 48, 48), 2.0), r"`references` has values from 2 to 2"),
        (torch.zeros(1, 3, 48, 48), torch.full((1, 3, 48, 48), math.nan), r"expected \[0, 1\]"),
        (torch.zeros(1, 3, 48, 48), torch.zeros(2, 3, 48, 48), "they must be equal"),
        (torch.zeros(1, 3, 48, 48, dtype=torch.uint8), torch.zeros(1, 3, 48, 48), "uint8"),
    ],
    ids=["axes", "range", "nan", "shapes", "type"],
)
def test_wrong_pictures_are_refused(measure, pictures, references, message):
    with pytest.raises(ValueError, match=message):
        measure(pictures, references)


@pytest.mark.parametrize("measure", [psnr, ssim, lpips])
def test_a_picture_of_pil_is_refused(measure):
    with pytest.raises(
        TypeError, match=r"`pictures` must be a tensor; got Image. Let the pipeline.*output_type=\"pt\""
    ):
        measure(Image.new("RGB", (48, 48)), torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize(("measure", "size", "message"), [(ssim, 8, "window, 11"), (lpips, 24, "too small for LPIPS")])
def test_pictures_that_are_too_small_are_refused(measure, size, message):
    with pytest.raises(ValueError, match=message):
        measure(torch.zeros(1, 3, size, size), torch.zeros(1, 3, size, size))


@pytest.mark.parametrize(
    ("missing", "measure", "message"),
    [
        ("torchmetrics.functional", psnr, r"pip install 'couple\[metrics\]'"),
        ("torchvision", lpips, "LPIPS needs torchvision, which is not installed"),
    ],
)
def test_a_missing_package_is_named_with_the_command(monkeypatch, missing, measure, message):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        measure(*pair())


@pytest.fixture
def squeeze(tmp_path, monkeypatch):
    """The folder of torch.hub with random weights where torchvision's SqueezeNet is looked for, and the network."""
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.squeezenet1_1().eval()
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / models.SqueezeNet1_1_Weights.DEFAULT.url.split("/")[-1])
    return network


@torch.no_grad()
def test_lpips_is_the_weighted_distance_of_unit_features(squeeze):
    from torchmetrics.functional.image import lpips as package

    pictures, references = pair()
    file = Path(package.__file__).parent / "lpips_models" / "squeeze.pth"
    heads = torch.load(file, map_location="cpu", weights_only=True)
    shift, scale = (torch.tensor(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    a, b = ((2 * x - 1 - shift) / scale for x in (pictures, references))
    expected, head = torch.zeros(2), 0
    for i, layer in enumerate(squeeze.features):
        a, b = layer(a), layer(b)
        if i in (1, 4, 7, 9, 10, 11, 12):
            distance = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square()
            expected += (distance * heads[f"lin{head}.model.1.weight"]).sum(1).mean((1, 2))
            head += 1
    torch.testing.assert_close(lpips(pictures, references, net="squeeze"), expected, atol=1e-4, rtol=1e-3)
    assert lpips(pictures[:1], pictures[:1], net="squeeze").tolist() == [0.0]
    with pytest.raises(ValueError, match="`net` is 'resnet'"):
        lpips(pictures, references, net="resnet")


def test_missing_weights_of_lpips_are_named_with_licence_and_command(squeeze, monkeypatch):
    def offline(url, *arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match=r"alexnet-owt-\w+.pth \(licence: BSD-3-Clause\).*run: curl .* -o "):
        lpips(*pair())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP in a folder."""
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = clip_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**tiny, **ends, "vocab_size": len(tokenizer)},
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return str(folder)


PROMPTS = ["a pink star", "two grey boats at sea, far away"]


def test_clip_score_is_that_of_torchmetrics(clip):
    from torchmetrics.functional.multimodal import clip_score as reference

    model = CLIPModel.from_pretrained(clip)
    # torchmetrics takes the features themselves, which transformers 5 has in `pooler_output`.
    features = SimpleNamespace(
        config=model.config,
        get_image_features=lambda *inputs: model.get_image_features(*inputs).pooler_output,
        get_text_features=lambda *inputs: model.get_text_features(*inputs).pooler_output,
    )
    features.to = lambda device: features
    pictures = pair()[0]
    scores = clip_score(pictures, PROMPTS, model=clip)
    for picture, prompt, score in zip(pictures, PROMPTS, scores, strict=True):
        bytes_ = (picture * 255).round().byte()
        expected = reference(bytes_, prompt, lambda: (features, CLIPProcessor.from_pretrained(clip)))
        torch.testing.assert_close(score, expected.detach(), atol=1e-3, rtol=0)
    assert scores.ne(0).any() and scores[0] != scores[1]


def test_clip_score_is_not_negative_and_prompts_are_cut_at_the_models_length(clip):
    pictures = pair(count=8)[0]
    scores = [clip_score(pictures, [letter * 100] * 8, model=clip) for letter in "abcdefgh"]
    assert torch.stack(scores).min() == 0.0 and torch.stack(scores).max() > 0


def test_clip_refuses_what_does_not_match_and_names_missing_weights(clip):
    with pytest.raises(ValueError, match="2 pictures but 1 prompts"):
        clip_score(pair()[0], ["a star"], model=clip)
    with pytest.raises(ValueError, match="give a list of one prompt a picture"):
        clip_score(pair()[0], "ab", model=clip)
    with pytest.raises(FileNotFoundError, match=r"run: hf download openai/clip-vit-large-patch14"):
        clip_score(pair()[0], PROMPTS)
