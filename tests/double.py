"""Stock schedulers in float64.

Some of them cast their state and their tables to float32, which would hide everything below 1e-7. Under the fixture
`float64_schedulers` the name `float32` means float64 inside diffusers' scheduler modules; their arithmetic is what
ships.
"""

import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler


class Double:
    """A module in which float32 stands for float64."""

    def __init__(self, module):
        self.module = module
        self.float32 = module.float64

    def __getattr__(self, name):
        return getattr(self.module, name)


@pytest.fixture
def float64_schedulers(monkeypatch):
    for cls in (DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler):
        module = sys.modules[cls.__module__]
        monkeypatch.setattr(module, "torch", Double(torch))
        monkeypatch.setattr(module, "np", Double(np))
