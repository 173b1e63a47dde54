"""Calls take turns, meet, and leave everything as it was: success, error, interrupt, odd pipelines."""

import contextvars
import copy
import gc
import inspect

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

import couple


class Net(nn.Module):
    """A velocity network that notes who asked, in which batches and under which modes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.batches = []
        self.grads = []

    def forward(self, x, t):
        self.batches.append(x.shape[0])
        self.grads.append(torch.is_grad_enabled())
        return self.linear(x.to(self.linear.weight.dtype)) * (t.reshape(-1, 1) / 1000)


class Walk:
    """The least a pipeline can be: a scheduler, a network, a loop."""

    def __init__(self, net, scheduler=None):
        self.net = net
        self.scheduler = scheduler or FlowMatchEulerDiscreteScheduler()
        self.log = []

    def __call__(self, num_inference_steps=4, generator=None, dtype=torch.float32, on_step=None):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(2, 4, generator=generator).to(dtype)
        try:
            for i, t in enumerate(self.scheduler.timesteps):
                output = self.net(x, t.expand(2))
                self.log.append((i, "predicted"))
                if on_step is not None:
                    x = on_step(self, i, x)
                x = self.scheduler.step(output, t, x, return_dict=False)[0]
                self.log.append((i, "stepped"))
        finally:
            self.log.append("left")
        return x


def seed(k):
    return torch.Generator().manual_seed(k)


def two(pipeline, other=None, **kwargs):
    return [
        couple.Trajectory(pipeline, name="a", generator=seed(0), **kwargs),
        couple.Trajectory(other or pipeline, name="b", generator=seed(1), **kwargs),
    ]


def run(trajectories, edges=(), **kwargs):
    return couple.sample(trajectories, edges, progress=False, **kwargs)


def test_everyone_predicts_before_anyone_moves():
    pipeline = Walk(Net())
    a, b = two(pipeline)
    run([a, b], couple.pair(a, b, weight=0.1), max_batch=1)
    # Both private copies share the log of the original.
    steps = [entry for entry in pipeline.log if entry != "left"]
    assert steps[:4] == [(0, "predicted"), (0, "predicted"), (0, "stepped"), (1, "predicted")]
    predicted = [k for k, entry in enumerate(steps) if entry == (3, "predicted")]
    assert max(predicted) < steps.index((3, "stepped"))


def test_calls_that_share_a_network_are_one_forward():
    net = Net()
    a, b = two(Walk(net))
    result = run([a, b])
    assert net.batches[-3:] == [4, 4, 4]
    assert result.steps == {a: 4, b: 4}
    assert result.forwards == 4 + 2  # the first meeting is checked against separate forwards


def test_calls_on_networks_of_their_own_need_no_meeting_there():
    nets = Net(), Net()
    a, b = two(Walk(nets[0]), Walk(nets[1]))
    assert run([a, b]).forwards == 0
    assert [net.batches for net in nets] == [[2] * 4] * 2


@pytest.mark.parametrize("max_batch", [None, 1])
@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("who", ["a", "b"])
def test_an_error_in_one_call_unwinds_the_others_and_restores_everything(who, error, max_batch):
    net = Net()
    pipelines = Walk(net), Walk(net)
    configs = [copy.deepcopy(vars(p.scheduler)) for p in pipelines]

    def fail(pipeline, i, x):
        if i == 2:
            raise error
        return x

    a = couple.Trajectory(pipelines[0], name="a", generator=seed(0), on_step=fail if who == "a" else None)
    b = couple.Trajectory(pipelines[1], name="b", generator=seed(1), on_step=fail if who == "b" else None)
    with pytest.raises(type(error)) as caught:
        run([a, b], couple.pair(a, b, weight=0.1), max_batch=max_batch)
    assert caught.value is error
    assert type(net) is Net and type(pipelines[0].scheduler) is FlowMatchEulerDiscreteScheduler
    assert [p.log[-1] for p in pipelines] == ["left", "left"]
    for pipeline, before in zip(pipelines, configs, strict=True):
        assert str(vars(pipeline.scheduler)) == str(before)
    assert net(torch.ones(2, 4), torch.ones(2)).shape == (2, 4)


def test_an_error_in_the_callback_unwinds_everyone():
    net = Net()
    pipeline = Walk(net)
    a, b = two(pipeline)

    def refuse(info):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run([a, b], callback=refuse)
    assert type(net) is Net and pipeline.log.count("left") == 2


def test_cleaning_up_may_not_hide_the_error_nor_wait_again():
    class Stubborn(Walk):
        def __call__(self, **kwargs):
            try:
                return super().__call__(**kwargs)
            finally:
                self.net(torch.ones(2, 4), torch.ones(2))
                raise OSError("cleaning failed")

    def fail(pipeline, i, x):
        raise ValueError("the first error")

    net = Net()
    a = couple.Trajectory(Stubborn(net), name="a", generator=seed(0))
    b = couple.Trajectory(Walk(net), name="b", generator=seed(1), on_step=fail)
    with pytest.raises(ValueError, match="the first error"):
        run([a, b])


def test_modes_of_one_call_do_not_reach_another():
    seen = {}

    class Loud(Walk):
        def __call__(self, **kwargs):
            with torch.enable_grad():
                return super().__call__(**kwargs)

    class Quiet(Walk):
        @torch.no_grad()
        def __call__(self, **kwargs):
            return super().__call__(**kwargs)

    class Inferring(Walk):
        @torch.inference_mode()
        def __call__(self, **kwargs):
            with torch.autocast("cpu", torch.bfloat16):
                return super().__call__(**kwargs)

    def note(pipeline, i, x):
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        seen.setdefault(type(pipeline).__name__, set()).add(modes)
        return x

    net = Net()
    trajectories = [
        couple.Trajectory(cls(net), generator=seed(k), on_step=note)
        for k, cls in enumerate([Loud, Quiet, Inferring, Loud])
    ]
    before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    result = run(trajectories, couple.complete(trajectories, weight=0.1))
    assert seen == {
        "Loud": {(True, False, False)},
        "Quiet": {(False, False, False)},
        "Inferring": {(False, True, True)},
    }
    assert [result[t].requires_grad for t in trajectories] == [True, False, False, True]
    after = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    assert before == after


def test_context_variables_belong_to_each_call():
    variable = contextvars.ContextVar("variable", default="outside")

    def note(pipeline, i, x):
        expected = "set before" if i == 0 else pipeline.mine
        assert variable.get() == expected
        pipeline.mine = f"mine {id(pipeline)} {i}"
        variable.set(pipeline.mine)
        return x

    variable.set("set before")
    run(two(Walk(Net()), on_step=note))
    assert variable.get() == "set before"


def test_unequal_step_counts_meet_by_progress_and_hold_the_last_prediction():
    net_a, net_b = Net(), Net()
    a = couple.Trajectory(Walk(net_a), name="a", generator=seed(0), num_inference_steps=4)
    b = couple.Trajectory(Walk(net_b), name="b", generator=seed(1), num_inference_steps=6)
    held = []
    run(
        [a, b],
        couple.pair(a, b, weight=0.1),
        callback=lambda info: held.append((info.progress, info.x0[a], info.x0[b])),
    )
    clock = sorted({k / 4 for k in range(4)} | {k / 6 for k in range(6)})
    assert [progress for progress, _, _ in held] == pytest.approx(clock)
    # 0, 1/6, 1/4, 1/3, 1/2, ...: a steps at 0, 1/4, 1/2; b at 0, 1/6, 1/3, 1/2.
    a_changes = [not torch.equal(held[k][1], held[k + 1][1]) for k in range(4)]
    b_changes = [not torch.equal(held[k][2], held[k + 1][2]) for k in range(4)]
    assert a_changes == [False, True, False, True]
    assert b_changes == [True, False, True, True]


def test_a_second_state_on_a_copied_scheduler_steps_alone():
    class WithSound(Walk):
        def __call__(self, num_inference_steps=4, generator=None):
            self.scheduler.set_timesteps(num_inference_steps)
            sound_scheduler = copy.deepcopy(self.scheduler)
            x = torch.randn(2, 4, generator=generator)
            sound = torch.randn(7, generator=generator)
            for t in self.scheduler.timesteps:
                output = self.net(x, t.expand(2))
                x = self.scheduler.step(output, t, x)[0]
                sound = sound_scheduler.step(sound, t, sound)[0]
            return x, sound

    pipeline = WithSound(Net())
    alone = [pipeline(generator=seed(k)) for k in (0, 1)]
    a, b = two(pipeline)
    result = run([a, b], couple.pair(a, b, weight=0.3))
    for trajectory, (x, sound) in zip((a, b), alone, strict=True):
        assert torch.equal(result[trajectory][1], sound)
        assert not torch.allclose(result[trajectory][0], x)
    assert result.steps == {a: 4, b: 4}


def test_copies_meet_where_the_original_never_steps():
    class Forcing(Walk):
        def __call__(self, num_inference_steps=4, generator=None):
            self.scheduler.set_timesteps(num_inference_steps)
            frames = [copy.deepcopy(self.scheduler) for _ in range(3)]
            x = torch.randn(3, 4, generator=generator)
            for t in self.scheduler.timesteps:
                output = self.net(x, t.expand(3))
                for k, scheduler in enumerate(frames):
                    x[k] = scheduler.step(output[k], t, x[k], return_dict=False)[0]
            return x

    pipeline = Forcing(Net())
    alone = [pipeline(generator=seed(k)) for k in (0, 1)]
    a, b = two(pipeline)
    result = run([a, b], couple.pair(a, b, weight=0.3))
    assert result.steps == {a: 12, b: 12}
    assert (result[a] - result[b]).norm() < (alone[0] - alone[1]).norm()


@pytest.mark.parametrize("form", ["keywords", "output object", "positional"])
def test_every_form_of_the_step_call_is_heard(form):
    class Form(Walk):
        def __call__(self, num_inference_steps=4, generator=None):
            self.scheduler.set_timesteps(num_inference_steps)
            x = torch.randn(2, 4, generator=generator)
            for t in self.scheduler.timesteps:
                output = self.net(x, t.expand(2))
                if form == "keywords":
                    x = self.scheduler.step(model_output=output, timestep=t, sample=x, return_dict=True).prev_sample
                elif form == "output object":
                    x = self.scheduler.step(output, t, x).prev_sample
                else:
                    x = self.scheduler.step(output, t, x, return_dict=False)[0]
            return x

    pipeline = Form(Net())
    alone = [pipeline(generator=seed(k)) for k in (0, 1)]
    a, b = two(pipeline)
    uncoupled, coupled = run([a, b], max_batch=1), None
    assert all(torch.equal(uncoupled[t], x) for t, x in zip((a, b), alone, strict=True))
    a, b = two(pipeline)
    coupled = run([a, b], couple.pair(a, b, weight=0.1))
    assert (coupled[a] - coupled[b]).norm() < (alone[0] - alone[1]).norm()


def test_more_steps_than_timesteps_keep_the_clock_going():
    class Windows(Walk):
        def __call__(self, num_inference_steps=4, generator=None):
            self.scheduler.set_timesteps(num_inference_steps)
            x = torch.randn(2, 4, generator=generator)
            for t in self.scheduler.timesteps:
                status = dict(vars(self.scheduler))
                for window in (slice(0, 1), slice(1, 2)):
                    vars(self.scheduler).update(status)
                    output = self.net(x[window], t.expand(1))
                    x[window] = self.scheduler.step(output, t, x[window])[0]
            return x

    pipeline = Windows(Net())
    a, b = two(pipeline)
    clock = []
    result = run([a, b], couple.pair(a, b, weight=0.1), callback=lambda info: clock.append(info.progress))
    assert result.steps == {a: 8, b: 8}
    assert clock == sorted(clock) and clock[0] == 0 and max(clock) < 1


def test_a_small_pull_is_not_lost_in_half_precision():
    net = Net()
    small = couple.weights.constant(2e-3)

    def gap(dtype):
        a, b = two(Walk(net.to(dtype)), dtype=dtype, num_inference_steps=40)
        coupled = run([a, b], couple.pair(a, b, weight=small), max_batch=1)
        a, b = two(Walk(net.to(dtype)), dtype=dtype, num_inference_steps=40)
        alone = run([a, b], max_batch=1)
        assert coupled[a_ := next(iter(coupled))].dtype == dtype and a_.name == "a"
        return [(c.double() - s.double()) for c, s in zip(coupled.values(), alone.values(), strict=True)]

    with torch.no_grad():
        exact, half = gap(torch.float32), gap(torch.bfloat16)
    for e, h in zip(exact, half, strict=True):
        assert (e - h).norm() < 0.25 * e.norm()


def test_a_pipeline_that_edits_its_state_between_steps_is_believed():
    def erase(pipeline, i, x):
        return torch.zeros_like(x) if i == 3 else x

    net = Net().to(torch.bfloat16)
    a, b = two(Walk(net), dtype=torch.bfloat16, on_step=erase)
    with torch.no_grad():
        result = run([a, b], couple.pair(a, b, weight=0.1))
    # From equal states the rest of both runs differs only by what the last network outputs differ.
    assert all(x.abs().max() < 2 for x in result.values())


def test_an_uncoupled_call_in_half_precision_takes_the_stock_path():
    net = Net().to(torch.bfloat16)
    pipeline = Walk(net)
    with torch.no_grad():
        alone = [pipeline(generator=seed(k), dtype=torch.bfloat16) for k in (0, 1)]
        a, b = two(pipeline, dtype=torch.bfloat16)
        result = run([a, b], couple.pair(a, b, weight=couple.weights.window(0.1, 0.999, 1.0)), max_batch=1)
    assert all(torch.equal(x, result[t]) for t, x in zip((a, b), alone, strict=True))


def test_processors_exchanged_inside_a_call_are_that_calls_own():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.processor = 1.0

        def forward(self, x):
            return x * self.processor

    class Exchanging(Walk):
        def __call__(self, factor=1.0, **kwargs):
            before = self.net.layer.processor
            self.net.layer.processor = factor
            x = super().__call__(**kwargs)
            self.net.layer.processor = before
            return x

    class Layered(Net):
        def __init__(self):
            super().__init__()
            self.layer = Layer()

        def forward(self, x, t):
            return super().forward(self.layer(x), t)

    pipeline = Exchanging(Layered())
    alone = [pipeline(factor=f, generator=seed(k)) for k, f in enumerate((2.0, 3.0, 1.0))]
    trajectories = [couple.Trajectory(pipeline, factor=f, generator=seed(k)) for k, f in enumerate((2.0, 3.0, 1.0))]
    for max_batch in (1, None):
        result = run(trajectories, max_batch=max_batch)
        for trajectory, x in zip(trajectories, alone, strict=True):
            torch.testing.assert_close(result[trajectory], x)
        assert pipeline.net.layer.processor == 1.0
        trajectories = [couple.Trajectory(pipeline, factor=f, generator=seed(k)) for k, f in enumerate((2.0, 3.0, 1.0))]


def test_a_pipeline_inside_a_pipeline_steps_the_same_private_scheduler():
    class Outer:
        def __init__(self, inner):
            self.inner = inner
            self.scheduler = inner.scheduler

        def __call__(self, **kwargs):
            return self.inner(**kwargs)

    pipeline = Outer(Walk(Net(), DDIMScheduler(clip_sample=False)))
    before = str(vars(pipeline.scheduler))
    alone = [pipeline(generator=seed(k)) for k in (0, 1)]
    pipeline.scheduler = pipeline.inner.scheduler = DDIMScheduler(clip_sample=False)
    a, b = two(pipeline)
    result = run([a, b], couple.pair(a, b, weight=0.1))
    assert result.steps == {a: 4, b: 4}
    assert (result[a] - result[b]).norm() < (alone[0] - alone[1]).norm()
    assert str(vars(pipeline.scheduler)) == before


class Particular(Walk):
    """Insists on the very class of its scheduler, asks what its step takes, and saves and restores its attributes."""

    def __call__(self, **kwargs):
        assert type(self.scheduler) is FlowMatchEulerDiscreteScheduler
        assert "generator" in inspect.signature(self.scheduler.step).parameters

        def restore(pipeline, i, x):
            kept = copy.deepcopy(pipeline.scheduler.__dict__)
            pipeline.scheduler.__dict__.update(kept)
            return x

        return super().__call__(on_step=restore, **kwargs)


def test_a_pipeline_may_insist_on_its_scheduler_and_restore_its_attributes():
    net = Net()
    a, b = two(Particular(net))
    stock = [trajectory.pipeline(generator=seed(k)) for k, trajectory in enumerate((a, b))]
    result = run([a, b], max_batch=1)
    assert torch.equal(result[a], stock[0]) and torch.equal(result[b], stock[1])
    assert result.steps == {a: 4, b: 4}
    a, b = two(Particular(net))
    coupled = run([a, b], couple.pair(a, b, weight=0.2))
    assert coupled.steps == {a: 4, b: 4}
    assert not torch.equal(coupled[a], stock[0])


def test_trajectories_may_share_one_scheduler_object():
    scheduler = DDIMScheduler(clip_sample=False)
    pipelines = Walk(Net(), scheduler), Walk(Net(), scheduler)
    alone = [pipeline(generator=seed(k)) for k, pipeline in enumerate(pipelines)]
    a, b = two(*pipelines)
    result = run([a, b], couple.pair(a, b, weight=0.0), max_batch=1)
    assert all(torch.equal(result[t], x) for t, x in zip((a, b), alone, strict=True))


@pytest.mark.parametrize("failing", [False, True])
def test_a_hundred_runs_leave_no_greenlet_and_no_hook_behind(failing):
    def fail(pipeline, i, x):
        raise ValueError("boom")

    def alive():
        gc.collect()
        things = gc.get_objects()
        return sum(type(thing).__name__ == "Turn" for thing in things), len(
            FlowMatchEulerDiscreteScheduler.__subclasses__()
        )

    net = Net()
    pipeline = Walk(net)
    before = alive()
    for _ in range(100):
        a, b = two(pipeline, num_inference_steps=1)
        if failing:
            b = couple.Trajectory(pipeline, generator=seed(1), on_step=fail)
            with pytest.raises(ValueError, match="boom"):
                run([a, b])
        else:
            run([a, b])
    del a, b
    assert alive() == before
    assert type(net) is Net
