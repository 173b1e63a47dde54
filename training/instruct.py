"""Trains the bundled editor by instruction: `python training/instruct.py` renders its data and writes the folder.

A small InstructPix2Pix that knows two instructions: put the scene under another sun, whichever, and turn a coarsely
moved object (cut-out pixels under the old shadows, grey where nothing is known) into a picture.
"""

import editors
import fitting
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from scenes import Shard
from torch import Tensor
from views import CHANNELS, DECODER_STEPS, LATENTS, autoencoder

from couple.bundled import INSTRUCTIONS, instruct

STEPS = 5500
RELIT = editors.BATCH // 2
"""Pictures of a step that are put under another sun; the others blend a moved object in."""


def draw(shard: Shard, generator: torch.Generator) -> editors.Draw:
    """Half of the pictures for each instruction."""
    pictures = editors.pick(shard, generator)
    # Either sun may be the old one.
    swapped = (torch.rand(RELIT, generator=generator) < 0.5)[:, None, None, None]
    sunny, relit = pictures["sunny"][:RELIT], pictures["relit"][:RELIT]
    old, new = torch.where(swapped, relit, sunny), torch.where(swapped, sunny, relit)
    return editors.Draw(
        source=torch.cat([old, pictures["coarse"][RELIT:]]),
        target=torch.cat([new, pictures["moved"][RELIT:]]),
        ghost=torch.cat([old, pictures["coarse"][RELIT:]]),
        prompts=[INSTRUCTIONS[0]] * RELIT + [INSTRUCTIONS[1]] * (editors.BATCH - RELIT),
    )


if __name__ == "__main__":
    arguments = fitting.arguments(
        __doc__.splitlines()[0], out="run_instruct", steps=STEPS, decoder_steps=DECODER_STEPS, folder=instruct()
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    model = editors.Editor(2 * CHANNELS)

    def predict(x: Tensor, time: Tensor, source: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """The picture is seen beside the state; one in ten is withheld, for guidance."""
        seen = LATENTS.encode(source * 2 - 1)
        seen = seen * (torch.rand(len(x), 1, 1, 1, generator=generator) >= editors.DROPPED)
        return model.unet(torch.cat([x, seen], 1), time, tokens, return_dict=False)[0]

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
    StableDiffusionInstructPix2PixPipeline(**model.parts(vae)).save_pretrained(arguments.folder)
