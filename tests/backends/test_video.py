"""Text-to-video models are loaded by the class they name, and refused when they want more than a prompt."""

import diffusers
import pytest
import torch
from diffusers import CogVideoXPipeline, WanPipeline

from couple.backends.loading import load_text_to_video
from couple.backends.video import films_prompts, frame_multiple, size_multiple
from tests.tiny import FAMILIES

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    def save(family):
        folder = tmp_path_factory.mktemp(family)
        FAMILIES[family].pipeline().save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(("family", "kind"), [("wan", WanPipeline), ("cogvideox", CogVideoXPipeline)])
def test_a_saved_pipeline_loads_as_what_it_was(saved, family, kind):
    pipeline = load_text_to_video(saved(family), **CPU)
    assert type(pipeline) is kind and pipeline.dtype == torch.float32


@pytest.mark.parametrize(("family", "kind"), [("flux", "FluxPipeline"), ("wan_image_to_video", "WanImageToVideo")])
def test_other_pipelines_are_refused_before_their_weights_are_read(saved, family, kind):
    folder = saved(family)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=f"is a {kind}.*, which does not make videos from prompts alone; give a"):
        load_text_to_video(folder, **CPU)


def test_a_class_that_diffusers_does_not_have_is_refused(saved):
    index = saved("wan") / "model_index.json"
    index.write_text(index.read_text().replace('"WanPipeline"', '"MyPipeline"'))
    with pytest.raises(ValueError, match="is a MyPipeline, which does not make videos from prompts alone"):
        load_text_to_video(index.parent, **CPU)


def test_broken_files_and_wrong_names_are_one_sentence(saved):
    folder = saved("wan")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    for model in (folder, "no-one/nothing"):
        with pytest.raises(ValueError, match=r"^model '.*' could not be loaded \(") as caught:
            load_text_to_video(model, **CPU)
        assert "\n" not in str(caught.value)


def test_pipelines_from_prompts_alone_are_told_from_others():
    yes = ("WanPipeline", "CogVideoXPipeline", "LTXPipeline", "MochiPipeline", "HunyuanVideoPipeline")
    no = ("FluxPipeline", "WanImageToVideoPipeline", "StableVideoDiffusionPipeline", "LattePipeline")
    assert all(films_prompts(getattr(diffusers, name)) for name in yes)
    assert not any(films_prompts(getattr(diffusers, name)) for name in no)


@pytest.mark.parametrize("family", ["wan", "wan_two_transformers", "cogvideox", "ltx", "mochi"])
def test_sizes_and_lengths_that_fit_are_what_comes_out(family):
    pipeline = FAMILIES[family].pipeline()
    size, length = size_multiple(pipeline), 1 + 2 * frame_multiple(pipeline)
    call = dict(FAMILIES[family].settings(0)) | {"num_inference_steps": 2, "output_type": "pil"}
    call |= {"height": size, "width": 2 * size, "num_frames": length}
    frames = pipeline(**call, generator=torch.Generator().manual_seed(0)).frames[0]
    assert len(frames) == length and frames[0].size == (2 * size, size)
