"""Placements on a GPU."""

import pytest
import torch

import couple
from couple.memory import Placement
from tests.memory.placed import cuda, families, nodes, on_cuda, photograph, run, same
from tests.tiny import FAMILIES


@cuda
@families
@pytest.mark.parametrize("max_batch", [None, 1])
def test_streamed_on_cuda_is_resident_on_cuda(name, max_batch):
    before = photograph(name)
    expected, _, _ = on_cuda(Placement("resident", device="cuda"), name, max_batch)
    for fraction in (None, "1KB"):
        found, _, _ = on_cuda(Placement("stream", budget=fraction, device="cuda"), name, max_batch)
        assert same(found, expected)
    assert [kept[1:] for kept in photograph(name)[1]] == [kept[1:] for kept in before[1]]


@cuda
def test_encoders_leave_cuda_before_denoising_and_pictures_are_decoded():
    pipeline = FAMILIES["flux"].pipeline()
    where = []

    def look(info):
        where.extend(p.device.type for p in pipeline.text_encoder_2.parameters())

    members = nodes("flux", output_type="np")
    couple.sample(members, placement=Placement("resident", device="cuda"), callback=look, progress=False)
    assert set(where) == {"cpu"}


@cuda
def test_memory_really_runs_out_on_cuda_and_is_found():
    before = torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.2e9 / before)
    try:
        with pytest.warns(RuntimeWarning, match="out of memory"):
            hidden = {"height": 1024, "width": 1024}
            run(Placement("auto", budget=before, device="cuda"), name="sd21", count=8, **hidden)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
