"""What `sample` refuses, what it shows, and what it hands back."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, KarrasVeScheduler
from diffusers.schedulers.deprecated import ScoreSdeVpScheduler
from torch import nn

import couple
from couple.methods import Coupled


class Net(nn.Module):
    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def forward(self, x, t):
        return x * self.gain


class Walk:
    def __init__(self, net=None, scheduler=None):
        self.net = net or Net()
        self.scheduler = scheduler or FlowMatchEulerDiscreteScheduler()

    def __call__(self, prompt=None, num_inference_steps=4, generator=None, shape=(2, 4)):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(shape, generator=generator)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.net(x, t), t, x, return_dict=False)[0]
        return x


def seed(k):
    return torch.Generator().manual_seed(k)


def run(trajectories, edges=(), **kwargs):
    return couple.sample(trajectories, edges, progress=False, **kwargs)


@pytest.fixture
def a():
    return couple.Trajectory(Walk(), name="cat", generator=seed(0))


@pytest.fixture
def b():
    return couple.Trajectory(Walk(), name="fox", generator=seed(1))


def without_scheduler():
    return couple.Trajectory(lambda: None, name="mute")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, b: run([]), ValueError, "nothing to sample"),
        (lambda a, b: run(a), TypeError, r"couple.sample\(\[a, b\], edges\)"),
        (lambda a, b: run([a, b[0]]), TypeError, r"must hold Trajectory objects; got View.*couple.Trajectory\(pipe"),
        (lambda a, b: run([a, a]), ValueError, "'cat' is given twice"),
        (
            lambda a, b: run([a], couple.pair(a, b, weight=1.0)),
            ValueError,
            "'fox' appears in edge 'cat' - 'fox' but not",
        ),
        (lambda a, b: run([a, b], couple.Edge(a, b, weight=1.0)), TypeError, r"couple.sample\(\[a, b\], \[edge\]\)"),
        (lambda a, b: run([a, b], [(a, b)]), TypeError, r"must hold Edge objects; got tuple.*couple.pair"),
        (
            lambda a, b: run([a, b], max_batch=0),
            ValueError,
            "`max_batch` must be None or an integer of at least 1; got 0",
        ),
        (lambda a, b: run([a, b], max_batch=True), ValueError, "`max_batch` must be"),
        (lambda a, b: run([a, b], method=Coupled), TypeError, r"Did you mean Coupled\(\)\?"),
        (lambda a, b: run([a, b], method="synctweedies"), TypeError, r"Did you mean couple.methods.SyncTweedies\(\)\?"),
        (lambda a, b: run([a, b], method=3), TypeError, r"got 3. Did you mean couple.methods.Coupled\(\)\?"),
        (lambda a, b: run([a, b], placement="stream"), TypeError, r"Did you mean couple.Placement\('stream'\)\?"),
        (lambda a, b: run([a, b], checkpoint="x.ckpt"), TypeError, r"Did you mean couple.Checkpoint\('x.ckpt'\)\?"),
        (
            lambda a, b: run([a, b], parallel=2),
            TypeError,
            r"got 2. Start them with torchrun.*couple.parallel.Ranks\(\)",
        ),
        (lambda a, b: run([a, b], callback=3), TypeError, r"a function of one argument, callback\(info\); got 3"),
        (
            lambda a, b: run([a, b], callback=lambda pipe, step, timestep, kwargs: kwargs),
            TypeError,
            r"one argument, callback\(info\), which <lambda>\(pipe, step, timestep, kwargs\) does not take",
        ),
        (lambda a, b: run([a, b], callback=lambda: None), TypeError, "which <lambda>.* does not take"),
        (
            lambda a, b: run([couple.Trajectory(Walk(), name="cat", generator=3)]),
            TypeError,
            r"'cat': `generator` is the number 3.*torch.Generator\(\).manual_seed\(3\)",
        ),
        (
            lambda a, b: run([couple.Trajectory(Walk(), name="cat", num_inference_steps="4")]),
            TypeError,
            "'cat': num_inference_steps must be a whole number.*got '4'",
        ),
        (
            lambda a, b: run([couple.Trajectory(Walk(), name="cat", num_inference_steps=2.5)]),
            TypeError,
            "'cat': num_inference_steps must be a whole number.*got 2.5",
        ),
        (lambda a, b: run([without_scheduler()]), ValueError, r"'mute': function has no scheduler.*DenoiserPipeline"),
        (lambda a, b: run([couple.Trajectory(print)]), ValueError, "builtin_function_or_method has no scheduler"),
        (
            lambda a, b: run([couple.Trajectory(Walk(), name="cat", prompts="x")]),
            TypeError,
            "'cat': Walk cannot be called so: got an unexpected keyword argument 'prompts'",
        ),
        (
            lambda a, b: run([couple.Trajectory(Walk(), name="cat", num_inference_steps=0)]),
            ValueError,
            "'cat': num_inference_steps must be at least 1; got 0",
        ),
        (
            lambda a, b: run([a, couple.Trajectory(Walk(), name="fox", generator=a.call_kwargs["generator"])]),
            ValueError,
            r"'cat' and 'fox' share one generator.*manual_seed",
        ),
        (
            lambda a, b: run(
                [a, c := couple.Trajectory(Walk(), name="big", shape=(2, 5))], couple.pair(a, c, weight=1.0)
            ),
            ValueError,
            r"'cat' - 'big'.*\(2, 4\) and \(2, 5\)",
        ),
    ],
)
def test_bad_requests_are_refused_with_the_fix(a, b, call, error, message):
    with pytest.raises(error, match=message):
        call(a, b)


def test_an_unsupported_scheduler_is_refused_by_name_before_anything_runs_but_only_where_it_matters():
    class Karras(Walk):
        """Calls a step that has neither a timestep nor a `sample`."""

        calls = 0

        def __call__(self, generator=None):
            Karras.calls += 1
            self.scheduler.set_timesteps(3)
            x = torch.randn(2, 4, generator=generator)
            for t in self.scheduler.timesteps:
                sigma, previous = self.scheduler.schedule[t], self.scheduler.schedule[t - 1] if t > 0 else 0
                x = self.scheduler.step(-x, sigma, previous, x).prev_sample
            return x

    class Score(Walk):
        def __call__(self):
            return "no step at all"

    def trajectories():
        a = couple.Trajectory(Walk(), name="cat", generator=seed(0))
        b = couple.Trajectory(Karras(scheduler=KarrasVeScheduler()), name="fox", generator=seed(1))
        return a, b, couple.Trajectory(Score(scheduler=ScoreSdeVpScheduler()), name="owl")

    a, b, c = trajectories()
    for other in (b, c):
        with pytest.raises(NotImplementedError, match=type(other.pipeline.scheduler).__name__):
            run([a, other], couple.pair(a, other, weight=0.1))
    assert Karras.calls == 0
    stock = Karras(scheduler=KarrasVeScheduler())(generator=seed(1))
    result = run([a, b, c])
    assert torch.equal(result[b], stock) and result[c] == "no step at all"


def test_the_result_maps_each_trajectory_to_what_its_pipeline_returned(a, b):
    result = run([b, a])
    assert list(result) == [b, a] and len(result) == 2
    stock = Walk()(generator=seed(0))
    assert torch.equal(result[a], stock)
    assert result.steps == {a: 4, b: 4}
    assert repr(result) == "<Result 'fox': Tensor (2, 4), 'cat': Tensor (2, 4)>"


def test_the_callback_sees_predictions_energies_and_pulls_and_cannot_edit_the_run(a, b):
    seen = []

    def look(info):
        x0 = info.x0[a]
        (edge,) = info.energies
        torch.testing.assert_close(info.energies[edge], float((x0 - info.x0[b]).square().sum() / 2))
        level = info.levels[a]
        torch.testing.assert_close(info.pull_norms[a], 0.1 * level.sigma * float((x0 - info.x0[b]).norm()))
        seen.append((info.step, info.progress))
        assert repr(info) == f"<Info step {info.step}, progress {info.progress:.2f}, stepped: 'cat', 'fox'>"
        for tensor in info.x0.values():
            tensor.zero_()
        with pytest.raises(TypeError):
            info.x0[a] = None

    edges = couple.pair(a, b, weight=0.1)
    watched = run([a, b], edges, callback=look)
    again = [couple.Trajectory(Walk(), generator=seed(k)) for k in (0, 1)]
    unwatched = run(again, couple.pair(*again, weight=0.1))
    assert seen == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    assert all(torch.equal(x, y) for x, y in zip(watched.values(), unwatched.values(), strict=True))


def test_a_state_that_is_no_longer_finite_is_named_with_step_and_weight():
    a = couple.Trajectory(Walk(Net(gain=1e30)), name="cat", generator=seed(0), num_inference_steps=8)
    b = couple.Trajectory(Walk(), name="fox", generator=seed(1), num_inference_steps=8)
    with pytest.raises(FloatingPointError, match=r"'cat' is not finite after step \d/8 .*weight=2.0.*relax"):
        run([a, b], couple.pair(a, b, weight=2.0))


def test_an_energy_whose_gradient_is_not_finite_is_named():
    def distance(a, b):  # the slope of a root is infinite where both agree
        return (a - b).square().sum().sqrt()

    a, b = (couple.Trajectory(Walk(), name=name, generator=seed(0)) for name in ("cat", "fox"))
    with pytest.raises(
        FloatingPointError,
        match=r"'cat' is not finite after step 1/4 .*gradient of distance, the energy of edge 'cat' - 'fox', is nan.*"
        r"of up to \d.*quotient or a root of 0.*weight=0.1",
    ):
        run([a, b], couple.pair(a, b, energy=distance, weight=0.1))


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("directed", [False, True])
def test_a_coupling_that_has_not_acted_is_not_blamed(first, directed):
    class Breaks(Net):
        calls = 0

        def forward(self, x, t):
            self.calls += 1
            return x * (torch.nan if self.calls > first else 1.0)

    a, b = (couple.Trajectory(Walk(net), name=name) for net, name in ((Breaks(), "cat"), (Net(), "fox")))
    with pytest.raises(couple.Diverged) as caught:
        run([a, b], couple.pair(a, b, weight=0.1, directed=directed), max_batch=1)
    (told,) = set(caught.value.lost.values())
    assert told.startswith(f"'cat' is not finite before step {first + 1}/4 of Walk. ")
    # Nothing pulls before the first step, nor ever on the end that leads.
    assert ("coupling is too strong" in told) == (first > 0 and not directed)
    assert ("Its network gave nan or inf; one that does in float16" in told) == (first == 0 or directed)


def test_a_method_of_the_users_may_add_nothing_where_no_noise_is_left(a, b):
    class Idle:
        evaluations = 1

        def begin(self, trajectories, edges):
            pass

        def meet(self, meeting):
            for arrival in meeting.due:
                arrival.step(torch.zeros_like(arrival.sample))

    result = run([a, b], couple.pair(a, b, weight=0.1), method=Idle())
    assert torch.equal(result[a], Walk()(generator=seed(0)))


def test_a_folder_is_no_checkpoint(a, tmp_path):
    with pytest.raises(
        IsADirectoryError, match=r"is a folder. Give a file in it, couple.Checkpoint\('.*run.checkpoint'\)"
    ):
        run([a], checkpoint=couple.Checkpoint(tmp_path))


def test_a_pull_far_beyond_the_noise_is_named_once_a_trajectory(a, b):
    with pytest.warns(
        RuntimeWarning, match=r"was pulled by .* standard deviations .*step \d/4, .*\(weight=30.0\)"
    ) as caught:
        run([a, b], couple.pair(a, b, weight=30.0))
    assert sorted(str(w.message).split("'")[1] for w in caught) == ["cat", "fox"]


def test_an_edge_on_a_pipeline_that_never_steps_is_named(a):
    class Idle(Walk):
        def __call__(self):
            return "nothing"

    idle = couple.Trajectory(Idle(), name="idle")
    with pytest.warns(RuntimeWarning, match="'idle' has an edge, but Idle never called its scheduler's step"):
        result = run([a, idle], couple.pair(a, idle, weight=0.1))
    assert result[idle] == "nothing" and result[a].shape == (2, 4)


def test_one_progress_bar_counts_the_steps_of_all(a, b, capsys):
    couple.sample([a, b])
    bar = capsys.readouterr().err
    assert "8/8" in bar and bar.count("100%") == 1


def test_no_progress_bar_when_not_wanted(a, b, capsys):
    run([a, b])
    assert capsys.readouterr().err == ""


def test_generators_advance_as_with_stock_calls_and_nothing_else_changes():
    pipeline = Walk(scheduler=DDIMScheduler(clip_sample=False))
    generator, stock = seed(3), seed(3)
    kwargs = dict(num_inference_steps=3, generator=generator)
    trajectory = couple.Trajectory(pipeline, **kwargs)
    run([trajectory])
    Walk(scheduler=DDIMScheduler(clip_sample=False))(num_inference_steps=3, generator=stock)
    assert torch.equal(generator.get_state(), stock.get_state())
    assert dict(trajectory.call_kwargs) == kwargs
    assert pipeline.scheduler.num_inference_steps is None
