"""Numbers that are no longer finite stay in their component of the graph; everyone else is sampled to the end."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

import couple
from couple.methods import ScoreAverageMCMC, SyncTweedies
from couple.resume.checkpoint import Checkpoint
from couple.sampling import Diverged
from tests.tiny import FAMILIES

STEPS = 5


class Net(nn.Module):
    """Gives nan or inf to the row that starts with the mark, as a network does that overflows for one input."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        torch.nn.init.eye_(self.linear.weight)
        self.batches = []

    def forward(self, x, t, break_with=None):
        self.batches.append(x.shape[0])
        out = self.linear(x).tanh()
        return out if break_with is None else out + break_with


class Walk:
    def __init__(self, net):
        self.net = net
        self.scheduler = DDIMScheduler(clip_sample=False)
        self.left = []  # one list for all private copies

    @torch.no_grad()
    def __call__(self, generator=None, breaks_at=None, value=math.nan, shape=(1, 4)):
        self.scheduler.set_timesteps(STEPS)
        x = torch.randn(shape, generator=generator)
        try:
            for i, t in enumerate(self.scheduler.timesteps):
                broken = torch.zeros(shape)
                broken[0, 0] = value if i == breaks_at else 0.0
                x = self.scheduler.step(self.net(x, t, broken), t, x, return_dict=False)[0]
        finally:
            self.left.append(x)
        return x


def nodes(pipeline, breaking="", value=math.nan, names="abcde"):
    return [
        couple.Trajectory(
            pipeline,
            name=name,
            generator=torch.Generator().manual_seed(k),
            breaks_at=2 if name in breaking else None,
            value=value,
        )
        for k, name in enumerate(names)
    ]


def edges_of(given):
    a, b, c, d, _ = given
    return couple.pair(a, b, weight=0.1) + couple.pair(c, d, weight=0.1)


@pytest.mark.filterwarnings("ignore:a merged forward")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("max_batch", [None, 1])
@pytest.mark.parametrize("method", [None, SyncTweedies], ids=["Coupled", "SyncTweedies"])
def test_the_others_get_what_they_get_without_it(method, max_batch, value):
    pipeline = Walk(Net())

    def sampled(given):
        edges = edges_of(given)
        if method is not None:
            edges = [couple.Edge(edge.a, edge.b, weight=1) for edge in edges]
        return couple.sample(given, edges, method=method and method(), max_batch=max_batch, progress=False)

    healthy = sampled(nodes(pipeline))
    given = a, b, c, d, e = nodes(pipeline, "a", value)
    with pytest.raises(
        FloatingPointError, match=r"'a' is not finite before step 3/5 of Walk.*has 'c', 'd', 'e'"
    ) as caught:
        sampled(given)
    assert isinstance(caught.value, Diverged)
    assert list(caught.value.result) == [c, d, e] and set(caught.value.lost) == {a, b}
    for trajectory, expected in zip(given[2:], list(healthy.values())[2:], strict=True):
        torch.testing.assert_close(caught.value.result[trajectory], expected, rtol=1e-6, atol=1e-6)
        if max_batch == 1:
            assert torch.equal(caught.value.result[trajectory], expected)
    assert len(pipeline.left) == 10 and type(pipeline.net) is Net


@pytest.mark.filterwarnings("ignore:a merged forward")
def test_a_trajectory_without_an_edge_is_named_too_and_its_call_ends_at_that_step():
    pipeline = Walk(Net())
    given = nodes(pipeline, "e")
    with pytest.raises(Diverged, match="'e' is not finite before step 3/5 of Walk. Its network gave nan") as caught:
        couple.sample(given, edges_of(given), max_batch=1, progress=False)
    assert list(caught.value.result) == given[:4]
    assert caught.value.result.steps[given[4]] == 3


def test_when_everyone_is_lost_the_error_names_each_component_and_the_result_is_empty():
    given = nodes(Walk(Net()), "ac", names="abcd")
    edges = couple.pair(given[0], given[1], weight=0.1) + couple.pair(given[2], given[3], weight=0.1)
    with pytest.raises(Diverged, match="'a' is not finite .*'c' is not finite") as caught:
        couple.sample(given, edges, max_batch=1, progress=False)
    assert len(caught.value.result) == 0 and set(caught.value.lost) == set(given)


def test_a_coupling_that_is_too_strong_costs_only_its_own_component():
    given = nodes(Walk(Net()))
    a, b, c, d, e = given
    edges = couple.pair(a, b, weight=1e30) + couple.pair(c, d, weight=0.1)
    with pytest.raises(Diverged, match=r"the coupling is too strong \(weight=1e\+30\)") as caught:
        couple.sample(given, edges, max_batch=1, progress=False)
    assert list(caught.value.result) == [c, d, e]


def test_corrections_that_explode_cost_only_their_own_component():
    pipeline = Walk(Net())
    given = [
        couple.Trajectory(pipeline, name=name, generator=torch.Generator().manual_seed(0), breaks_at=at)
        for name, at in (("a", 7), ("b", None), ("c", None), ("d", None))
    ]
    edges = couple.pair(*given[:2], weight=1) + couple.pair(*given[2:], weight=1)
    method = ScoreAverageMCMC(generator=torch.Generator().manual_seed(1), steps=2)
    with pytest.raises(Diverged, match=r"'a' is not finite before step 8/15 .*lower step_size") as caught:
        couple.sample(given, edges, method=method, max_batch=1, progress=False)
    assert list(caught.value.result) == given[2:]


@pytest.mark.filterwarnings("ignore:a merged forward")
def test_a_lost_component_stays_lost_after_a_run_goes_on(tmp_path):
    pipeline = Walk(Net())
    path = tmp_path / "run"

    def stop(info):
        if info.step == 4:
            raise InterruptedError

    def sampled(**kwargs):
        given = nodes(pipeline, "a")
        with pytest.raises((Diverged, InterruptedError)) as caught:
            couple.sample(given, edges_of(given), max_batch=1, progress=False, **kwargs)
        return given, caught.value

    _, expected = sampled()
    sampled(callback=stop, checkpoint=Checkpoint(path))
    given, again = sampled(checkpoint=Checkpoint(path))
    assert isinstance(again, Diverged) and isinstance(expected, Diverged)
    assert {t.name for t in again.lost} == {"a", "b"} and str(again) == str(expected)
    assert list(again.result) == given[2:]
    assert all(map(torch.equal, again.result.values(), expected.result.values()))
    assert not path.exists()


@pytest.mark.parametrize("name", ["sd21", "wan", "flux"])
def test_a_row_of_nan_in_a_merged_forward_does_not_reach_the_rows_of_others(name):
    family = FAMILIES[name]

    def sampled(broken):
        given = []
        for k in (0, 1):
            trajectory = couple.Trajectory(
                family.pipeline(), name=f"{k}", **{**family.arguments(k), "output_type": "latent"}
            )
            given.append(trajectory)
        if broken:
            latents = couple.sample([given[0]], progress=False)[given[0]][0].clone()
            arguments = {**family.arguments(0), "latents": torch.full_like(torch.as_tensor(latents), math.nan)}
            given[0] = couple.Trajectory(family.pipeline(), name="0", **{**arguments, "output_type": "latent"})
        return given, lambda: couple.sample(given, progress=False)

    given, sample = sampled(False)
    healthy = sample()[given[1]][0]
    given, sample = sampled(True)
    with pytest.raises(Diverged, match="'0' is not finite before step 1/") as caught:
        sample()
    torch.testing.assert_close(caught.value.result[given[1]][0], healthy, rtol=1e-4, atol=1e-5)
