"""The run record: everything needed to know, and to repeat, what a folder of pictures is."""

import json
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from couple import __version__
from couple.cli.image import Request

_LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def run_record(request: Request, pipeline: Any, settings: dict[str, Any], **measured: Any) -> str:
    """Write a run down as JSON.

    Args:
        request: What was asked.
        pipeline: The diffusers pipeline that ran.
        settings: The call arguments it ran with, beside prompt and generator.
        **measured: What came out, by name: numbers, or containers of numbers.

    Returns:
        Indented JSON text.
    """
    asked = {name: value for name, value in asdict(request).items() if name != "out"}
    record = {
        "command": ["couple", *sys.argv[1:]],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "couple": __version__,
            "python": platform.python_version(),
            **{library: version(library) for library in _LIBRARIES},
        },
        **asked,
        "model": request.model or "bundled",
        "pipeline": type(pipeline).__name__,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": str(pipeline.device),
        "seeds": [request.seed + i for i in range(len(request.prompts))],
        "call": settings,
        "scheduler": {
            "class": type(pipeline.scheduler).__name__,
            "config": json.loads(pipeline.scheduler.to_json_string()),
        },
        **measured,
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"
