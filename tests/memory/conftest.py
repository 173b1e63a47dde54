"""What streaming moves, for the tests that count it."""

import pytest
from diffusers.hooks import group_offloading


@pytest.fixture
def passages(monkeypatch):
    """Bytes that diffusers' group offload moves to the device, by tensor and number of moves."""
    moved = {}
    stock = group_offloading.ModuleGroup._transfer_tensor_to_device

    def counted(self, tensor, source, stream):
        nbytes, times = moved.get(id(tensor), (0, 0))
        moved[id(tensor)] = nbytes + source.numel() * source.element_size(), times + 1
        return stock(self, tensor, source, stream)

    monkeypatch.setattr(group_offloading.ModuleGroup, "_transfer_tensor_to_device", counted)
    return moved
