"""Where a run happens and how precisely, and who may write on the screen meanwhile."""

import warnings

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from couple.cli.options import Execution


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or a GPU if there is one; raises ValueError if it cannot be used here."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name} is no device; write cpu, cuda, cuda:1 or mps.") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(f"--device {name} cannot be used here ({reason}); try --device cpu.") from error
    return device


def choose_dtype(name: str | None, device: torch.device, *, bundled: bool) -> torch.dtype:
    """The type of that name, or what suits: float32 on a CPU and for the small bundled models, else bfloat16."""
    return getattr(torch, name or ("float32" if bundled or device.type == "cpu" else "bfloat16"))


def quiet_libraries() -> None:
    """Leave the screen to our own progress bar and sentences."""
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(torch|diffusers|transformers|huggingface_hub)\b")


def loading_device(device: torch.device, execution: Execution) -> torch.device:
    """Where models are loaded to: where they run, or beside it where a placement brings what is needed."""
    return device if execution.memory is None else torch.device("cpu")
