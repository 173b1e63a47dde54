"""Does a picture show what its prompt says? Judged by a small classifier trained on renders only.

The classifier has never seen a generated picture: it is trained by `training/classifier.py` on drawings of the bundled
model's picture world, blurred, brightened and speckled a little, so that it is an independent judge of the samples.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from couple.bundled import COLOURS, SHAPES


class RenderClassifier(nn.Module):
    """Names the shape and the colour of the one object in a picture of the bundled world.

    A convolutional network of 0.2 M parameters; `RenderClassifier.bundled()` has the trained weights.
    """

    def __init__(self):
        super().__init__()
        widths = (3, 24, 48, 96, 96)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        layers += [nn.Conv2d(96, 96, 3, padding=1), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(96, len(SHAPES) + len(COLOURS))

    @classmethod
    def bundled(cls) -> "RenderClassifier":
        """The classifier with the weights that come with the package, in evaluation mode."""
        classifier = cls()
        weights = load_file(Path(__file__).parents[1] / "bundled" / "classifier.safetensors")
        classifier.load_state_dict({name: value.float() for name, value in weights.items()})
        return classifier.eval()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape and of colour.

        Args:
            pictures: shape (B, 3, 64, 64), float32 in [0, 1].

        Returns:
            Two tensors of shape (B, 6), in the order of `couple.bundled.SHAPES` and `couple.bundled.COLOURS`.
        """
        logits = self.head(self.features(pictures - 0.2).amax((2, 3)))
        return logits[:, : len(SHAPES)], logits[:, len(SHAPES) :]

    @torch.no_grad()
    def name(self, pictures: Tensor) -> list[tuple[str, str]]:
        """Colour and shape of each picture, such as ("pink", "star"); pictures as in `forward`."""
        shapes, colours = self(pictures)
        rows = zip(colours.argmax(1).tolist(), shapes.argmax(1).tolist(), strict=True)
        return [(COLOURS[colour], SHAPES[shape]) for colour, shape in rows]


def faithful(classifier: RenderClassifier, pictures: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Whether each picture shows its prompt's shape and its prompt's colour.

    Args:
        classifier: the judge.
        pictures: shape (B, 3, 64, 64), float32 in [0, 1].
        prompts: B prompts, each naming one known shape and one known colour, such as "a pink star".

    Returns:
        Two bool tensors of shape (B,): the shape is right, the colour is right. `shape & colour` is the strict score.

    Raises:
        ValueError: a prompt does not name exactly one known shape and one known colour, or the counts differ.
    """
    if len(prompts) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures but {len(prompts)} prompts; give one prompt a picture.")
    wanted = []
    for prompt in prompts:
        words = prompt.lower().split()
        colours, shapes = [w for w in words if w in COLOURS], [w for w in words if w in SHAPES]
        if len(colours) != 1 or len(shapes) != 1:
            raise ValueError(
                f"prompt {prompt!r} names colours {colours} and shapes {shapes}; it must name exactly one of "
                f"{', '.join(COLOURS)} and one of {', '.join(SHAPES)}, such as 'a pink star'."
            )
        wanted.append((colours[0], shapes[0]))
    seen = classifier.name(pictures)
    return (
        torch.tensor([got[1] == want[1] for got, want in zip(seen, wanted, strict=True)]),
        torch.tensor([got[0] == want[0] for got, want in zip(seen, wanted, strict=True)]),
    )
