"""Trains the bundled restyling editor: `python training/restyle.py` renders its data and writes the folder.

A small Stable Diffusion with a ControlNet on Canny edges: it keeps the outlines of a picture and paints them as "a
winter scene", "a desert scene" and so on. A style leaves the colour of every object open.
"""

import editors
import fitting
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from scenes import Shard
from torch import Tensor
from views import CHANNELS, DECODER_STEPS, autoencoder

from couple.bundled import restyle
from couple.bundled.blocks import STYLES
from couple.reproduce.scenes import outlines

STEPS = 2500
ARTICLES = ("a {} scene", "the {} scene", "{}", "{} scene")


def draw(shard: Shard, generator: torch.Generator) -> editors.Draw:
    """Edges of a picture, and the picture in another style."""
    pictures = editors.pick(shard, generator)
    articles = torch.randint(len(ARTICLES), (editors.BATCH,), generator=generator).tolist()
    styles = [STYLES[i] for i in shard.style[pictures["scene"]]]
    return editors.Draw(
        source=outlines(pictures["sunny"]),
        target=pictures["restyled"],
        ghost=pictures["sunny"],
        prompts=[ARTICLES[i].format(style) for i, style in zip(articles, styles, strict=True)],
    )


if __name__ == "__main__":
    arguments = fitting.arguments(
        __doc__.splitlines()[0], out="run_restyle", steps=STEPS, decoder_steps=DECODER_STEPS, folder=restyle()
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    model = editors.Editor(CHANNELS)
    model.controlnet = ControlNetModel(
        in_channels=CHANNELS, conditioning_embedding_out_channels=(16, 32, 64), **editors.BLOCKS
    )

    def predict(x: Tensor, time: Tensor, source: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """The edges steer the UNet through the ControlNet."""
        down, middle = model.controlnet(x, time, tokens, source, return_dict=False)
        return model.unet(
            x,
            time,
            tokens,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]

    editors.train(
        model,
        draw,
        predict,
        arguments.out,
        seed=arguments.seed,
        steps=arguments.steps,
        every=arguments.every,
    )
    vae = autoencoder(arguments.seed, arguments.decoder_steps, arguments.out.parent / "decoder.safetensors")
    StableDiffusionControlNetPipeline(controlnet=model.controlnet.half(), **model.parts(vae)).save_pretrained(
        arguments.folder
    )
