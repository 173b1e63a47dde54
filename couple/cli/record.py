"""The run record: everything needed to know, and to repeat, what a folder of results is."""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from couple import __version__
from couple.cli.options import Options, Request

_LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def run_record(options: Options, **facts: Any) -> str:
    """Write a run down as JSON.

    Args:
        options: What was asked; all of it but the folder is written down.
        **facts: What ran and what came out, by name: whatever JSON can hold. They stand in the place of options of
            the same name.

    Returns:
        Indented JSON text.
    """
    asked = {name: value for name, value in asdict(options).items() if name != "out"}
    record = {
        "command": ["couple", *sys.argv[1:]],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "couple": __version__,
            "python": platform.python_version(),
            **{library: version(library) for library in _LIBRARIES},
        },
        **asked,
        **facts,
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def request_facts(request: Request, pipeline: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What one pipeline ran with; `settings` are the arguments of its calls beside prompt and generator."""
    return {
        "model": request.model or "bundled",
        **pipeline_facts(pipeline),
        "seeds": [request.seed + i for i in range(len(request.prompts))],
        "call": dict(settings),
    }


def pipeline_facts(pipeline: Any) -> dict[str, Any]:
    """What a diffusers pipeline is and where it ran."""
    return {
        "pipeline": type(pipeline).__name__,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": str(pipeline.device),
        "scheduler": {
            "class": type(pipeline.scheduler).__name__,
            "config": json.loads(pipeline.scheduler.to_json_string()),
        },
    }
