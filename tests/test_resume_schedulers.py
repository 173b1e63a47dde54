"""A run that goes on from a checkpoint is the run that never stopped, bit for bit, for every supported scheduler."""

import pytest
import torch
from torch import nn

import couple
from couple.resume.checkpoint import Checkpoint
from tests.schedulers.cases import CASES
from tests.schedulers.loop import STEPS, Case, take_step, timestep_of, timesteps_of


class Net(nn.Module):
    """Gives what the scheduler expects a network to give, by shape; the numbers only have to depend on the state."""

    def __init__(self):
        super().__init__()
        self.evaluated = 0

    def forward(self, x, channels, width):
        self.evaluated += 1
        out = (0.9 * x + 0.3 * x.roll(1, -1)).tanh()
        return torch.cat([out] * (channels // x.shape[1]), 1).repeat(1, 1, 1, width // x.shape[-1])


class Loop:
    """A pipeline that steps any scheduler as its own pipelines do."""

    def __init__(self, case: Case):
        self.case = case
        self.scheduler = case.scheduler(None)
        self.net = Net()

    def __call__(self, generator):
        case, scheduler = self.case, self.scheduler
        case.set_timesteps(scheduler, STEPS)
        sample = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
        channels = 6 if case.config.get("variance_type") == "learned_range" else 3
        width = 8 * (scheduler.n_grid if case.name == "PiflowScheduler" else 1)
        memory: dict = {}
        for i in range(len(timesteps_of(scheduler))):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, timestep_of(scheduler, i, sample))
            output = self.net(sample, channels, width)
            sample, _ = take_step(case, scheduler, output, i, sample, generator, memory)
        return sample


def sampled(pipelines, stop=None, **kwargs):
    def leave(info):
        if info.step == stop:
            raise InterruptedError

    a, b = (
        couple.Trajectory(pipeline, name=name, generator=torch.Generator().manual_seed(k))
        for k, (pipeline, name) in enumerate(zip(pipelines, "ab", strict=True))
    )
    edges = couple.pair(a, b, weight=0.05)
    result = couple.sample([a, b], edges, callback=leave, progress=False, **kwargs)
    return result, [result[a], result[b]]


def one_of_each_class():
    return list({case.name: case for case in reversed(CASES)}.values())


def check_resumes(case, path, stops):
    pipelines = Loop(case), Loop(case)
    torch.manual_seed(0)  # some draw from torch's own generator
    result, whole = sampled(pipelines)
    meetings = result.steps[next(iter(result))]
    for stop in stops(meetings):
        path.unlink(missing_ok=True)
        torch.manual_seed(0)
        with pytest.raises(InterruptedError):
            sampled(pipelines, stop, checkpoint=Checkpoint(path))
        torch.manual_seed(1)  # what the next process would have
        for pipeline in pipelines:
            pipeline.net.evaluated = 0
        _, again = sampled(pipelines, checkpoint=Checkpoint(path))
        for sample, expected in zip(again, whole, strict=True):
            assert torch.equal(sample, expected), f"{case}: differs when stopped in meeting {stop}"
        # The first forward is the answer to those before the checkpoint, which is one behind.
        assert pipelines[0].net.evaluated <= meetings - stop + 1
        assert not path.exists()


@pytest.mark.filterwarnings("ignore:.*was pulled by")
@pytest.mark.parametrize("case", one_of_each_class(), ids=lambda case: case.name)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(case, tmp_path):
    check_resumes(case, tmp_path / "run", lambda meetings: {1, meetings // 2, meetings - 1})
