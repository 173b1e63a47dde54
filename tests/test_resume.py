"""Checkpoints: what was stopped, killed or failed goes on bit for bit, and what cannot go on is named."""

import copy
import inspect
import os
import random
import resource
import shutil
import signal
import time

import pytest
import torch
from diffusers import (
    AceStepPipeline,
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SemanticStableDiffusionPipeline,
    StableDiffusionPipelineSafe,
    UniPCMultistepScheduler,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

import couple
from couple.methods import ScoreAverage, ScoreAverageMCMC, SyncTweedies
from couple.resume import momenta, states
from couple.resume.checkpoint import Checkpoint
from tests.tiny import FAMILIES

SCHEDULERS = {
    "DDPM": lambda: DDPMScheduler(clip_sample=False),
    "UniPC": UniPCMultistepScheduler,
    "flow Euler": FlowMatchEulerDiscreteScheduler,
}
STEPS = 6


class Net(nn.Module):
    def __init__(self, gain=0.3):
        super().__init__()
        self.gain = gain
        self.evaluated = 0

    def forward(self, x, t):
        self.evaluated += 1
        return (self.gain * x + x.roll(1, -1)).tanh()


class Walk:
    def __init__(self, net=None, scheduler=None):
        self.net = net or Net()
        self.scheduler = scheduler or FlowMatchEulerDiscreteScheduler()

    def __call__(self, num_inference_steps=STEPS, generator=None, dtype=torch.float32, on_step=None):
        self.scheduler.set_timesteps(num_inference_steps)
        options = {"generator": generator} if isinstance(self.scheduler, DDPMScheduler) else {}
        x = torch.randn(2, 4, generator=generator).to(dtype)
        for i, t in enumerate(self.scheduler.timesteps):
            output = self.net(x, t)
            if on_step is not None:
                on_step(i)
            x = self.scheduler.step(output, t, x, **options, return_dict=False)[0]
        return x


def seed(k):
    return torch.Generator().manual_seed(k)


def two(pipeline, other=None, seeds=(0, 1), **kwargs):
    return [
        couple.Trajectory(p, name=name, generator=seed(k), **kwargs)
        for p, name, k in zip((pipeline, other or pipeline), "ab", seeds, strict=True)
    ]


def run(nodes, weight=0.1, **kwargs):
    result = couple.sample(nodes, couple.pair(*nodes, weight=weight), progress=False, **kwargs)
    return [result[node] for node in nodes]


class Stop(Exception):
    pass


def stop_at(meeting):
    def look(info):
        if info.step == meeting:
            raise Stop

    return look


def equal(one, other):
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(one, other, strict=True))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.checkpoint"


@pytest.mark.parametrize("max_batch", [None, 1])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_that_failed_at_any_step_goes_on_bit_for_bit(name, every, max_batch, path):
    pipeline = Walk(scheduler=SCHEDULERS[name]())
    whole = run(two(pipeline), max_batch=max_batch)
    for meeting in range(STEPS):
        with pytest.raises(Stop):
            run(two(pipeline), max_batch=max_batch, callback=stop_at(meeting), checkpoint=Checkpoint(path, every=every))
        assert path.exists() == (meeting >= every)
        seen = []
        checkpoint = Checkpoint(path, every=every)
        again = run(two(pipeline), max_batch=max_batch, callback=lambda i: seen.append(i.step), checkpoint=checkpoint)  # noqa: B023
        assert equal(again, whole)
        assert seen == list(range(meeting - meeting % every, STEPS))
        assert not path.exists()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_goes_on_bit_for_bit(name, path):
    family = FAMILIES[name]

    def nodes():
        return [couple.Trajectory(family.pipeline(), name=f"{k}", **family.arguments(k)) for k in (0, 1)]

    def sampled(**kwargs):
        a, b = nodes()
        result = couple.sample([a, b], couple.pair(a, b, weight=0.1), progress=False, **kwargs)
        return [result[a][0], result[b][0]], max(result.steps.values())

    whole, steps = sampled(callback=lambda info: None)
    with pytest.raises(Stop):
        sampled(callback=stop_at(steps - 1), checkpoint=Checkpoint(path))
    again, _ = sampled(checkpoint=Checkpoint(path))
    assert equal(again, whole)


def test_unequal_step_counts_and_half_precision_go_on_bit_for_bit(path):
    pipelines = Walk(), Walk()

    def nodes():
        return [
            couple.Trajectory(p, name=n, generator=seed(k), num_inference_steps=4 + 2 * k, dtype=torch.bfloat16)
            for k, (p, n) in enumerate(zip(pipelines, "ab", strict=True))
        ]

    whole = run(nodes(), weight=0.01)
    for meeting in range(1, 8):
        with pytest.raises(Stop):
            run(nodes(), weight=0.01, callback=stop_at(meeting), checkpoint=Checkpoint(path))
        assert equal(run(nodes(), weight=0.01, checkpoint=Checkpoint(path)), whole)


METHODS = {
    "ScoreAverage": ScoreAverage,
    "SyncTweedies": SyncTweedies,
    "ULA": lambda: ScoreAverageMCMC(generator=seed(9), steps=2),
    "UHA": lambda: ScoreAverageMCMC(generator=seed(9), steps=2, sampler="uha"),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_bit_for_bit(name, path):
    pipelines = Walk(Net(0.3), SCHEDULERS["DDPM"]()), Walk(Net(0.6), SCHEDULERS["DDPM"]())

    def sampled(**kwargs):
        return run(two(*pipelines, seeds=(0, 0), num_inference_steps=3), 1, method=METHODS[name](), **kwargs)

    meetings = []
    whole = sampled(callback=lambda info: meetings.append(info.step))
    for meeting in meetings[1::4]:
        with pytest.raises(Stop):
            sampled(callback=stop_at(meeting), checkpoint=Checkpoint(path))
        assert equal(sampled(checkpoint=Checkpoint(path)), whole)


class WithSound(Walk):
    """A second state on a copy of the scheduler, whose network output is made together with the first's."""

    def __call__(self, generator=None):
        self.scheduler.set_timesteps(STEPS)
        sound_scheduler = copy.deepcopy(self.scheduler)
        x, sound = torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator)
        for t in self.scheduler.timesteps:
            output, heard = self.net(torch.cat([x, sound]), t).chunk(2)
            x = self.scheduler.step(output, t, x, return_dict=False)[0]
            sound = sound_scheduler.step(heard, t, sound, return_dict=False)[0]
        return torch.cat([x, sound])


class Windows(Walk):
    """Windows of one state that step one after the other."""

    def __call__(self, generator=None):
        self.scheduler.set_timesteps(STEPS)
        x = torch.randn(3, 4, generator=generator)
        for t in self.scheduler.timesteps:
            status = dict(vars(self.scheduler))
            for k in range(3):
                vars(self.scheduler).update(status)
                x[k : k + 1] = self.scheduler.step(self.net(x[k : k + 1], t), t, x[k : k + 1], return_dict=False)[0]
        return x


class Frames(Walk):
    """A scheduler for each frame of one state, one of which ends early."""

    def __call__(self, generator=None):
        self.scheduler.set_timesteps(STEPS)
        frames = [copy.deepcopy(self.scheduler) for _ in range(2)]
        x = torch.randn(2, 4, generator=generator)
        for i, t in enumerate(self.scheduler.timesteps):
            for k, scheduler in enumerate(frames):
                if k or i < 3:
                    x[k] = scheduler.step(self.net(x, t)[k], t, x[k], return_dict=False)[0]
        return x


class Stages(Walk):
    """What the first stage ends with conditions the second."""

    def __init__(self):
        self.prior = Walk(scheduler=UniPCMultistepScheduler())
        super().__init__(scheduler=FlowMatchEulerDiscreteScheduler())
        self.prior_scheduler = self.prior.scheduler
        self.second_scheduler = self.scheduler
        self.scheduler = None

    def __call__(self, generator=None):
        self.scheduler = self.prior_scheduler
        before = Walk.__call__(self, 3, generator)
        self.scheduler = self.second_scheduler
        return before + Walk.__call__(self, 3, generator)


@pytest.mark.parametrize("kind", [WithSound, Windows, Frames, Stages], ids=lambda kind: kind.__name__)
def test_pipelines_with_more_than_one_state_go_on_bit_for_bit(kind, path):
    pipeline = (
        kind() if kind is Stages else kind(scheduler=SCHEDULERS["UniPC" if kind is WithSound else "flow Euler"]())
    )
    seen = []
    whole = run(two(pipeline), callback=lambda info: seen.append(info.step))
    assert len(seen) >= STEPS
    for meeting in seen[1::3]:
        with pytest.raises(Stop):
            run(two(pipeline), callback=stop_at(meeting), checkpoint=Checkpoint(path))
        assert equal(run(two(pipeline), checkpoint=Checkpoint(path)), whole), meeting


class Guided(Walk):
    """Guidance by a guider that is a part of the pipeline, as in HunyuanVideo 1.5."""

    def __init__(self, guider):
        super().__init__()
        self.guider = guider

    def __call__(self, generator=None):
        self.scheduler.set_timesteps(STEPS)
        x = torch.randn(2, 4, generator=generator)
        for i, t in enumerate(self.scheduler.timesteps):
            self.guider.set_state(step=i, num_inference_steps=STEPS, timestep=t)
            states = self.guider.prepare_inputs({"x": (x, -x)})
            for state in states:
                state.noise_pred = self.net(state.x, t)
            x = self.scheduler.step(self.guider(states)[0], t, x, return_dict=False)[0]
        return x


@pytest.mark.parametrize(
    ("kind", "options"),
    [(AdaptiveProjectedGuidance, {}), (AdaptiveProjectedMixGuidance, {"adaptive_projected_guidance_start_step": 1})],
)
def test_the_momentum_of_a_guider_is_kept(kind, options, path):
    def pipeline(momentum=-0.7):
        return Guided(kind(guidance_scale=3.0, adaptive_projected_guidance_momentum=momentum, **options))

    whole = run(two(pipeline()))
    assert not equal(whole, run(two(pipeline(momentum=0.0))))
    for meeting in (1, 3, STEPS - 1):
        with pytest.raises(Stop):
            run(two(pipeline()), callback=stop_at(meeting), checkpoint=Checkpoint(path))
        assert equal(run(two(pipeline()), checkpoint=Checkpoint(path)), whole)


#: What a class is called with beside a prompt, and what makes its guidance go without momentum.
MOMENTA = {
    StableDiffusionPipelineSafe: ({"sld_warmup_steps": 1}, {"sld_momentum_scale": 0.0}),
    SemanticStableDiffusionPipeline: (
        {"editing_prompt": "red", "edit_warmup_steps": 1, "edit_threshold": 0.5},
        {"edit_momentum_scale": 0.0},
    ),
}


@pytest.mark.parametrize("kind", MOMENTA)
def test_a_stock_pipeline_whose_momentum_is_out_of_sight_is_refused_before_anything_runs(kind, path, monkeypatch):
    settings, fix = MOMENTA[kind]
    parts = {**FAMILIES["sd21"].pipeline().components, "scheduler": DDPMScheduler(clip_sample=False, steps_offset=1)}
    takes = inspect.signature(kind.__init__).parameters
    pipeline = kind(**{name: part for name, part in parts.items() if name in takes}, requires_safety_checker=False)

    def sampled(**kwargs):
        call = {**settings, **more, "height": 16, "width": 16, "num_inference_steps": 4, "output_type": "latent"}
        nodes = [
            couple.Trajectory(pipeline, name=name, prompt=f"a {name}", generator=seed(k), **call)
            for k, name in enumerate("ab")
        ]
        result = couple.sample(nodes, couple.pair(*nodes, weight=0.1), progress=False, **kwargs)
        return [result[node][0] for node in nodes]

    more = {}
    whole = sampled()
    ((name, value),) = fix.items()
    with pytest.raises(ValueError, match=f"'a': the guidance of {kind.__name__} has a momentum.*{name}={value}"):
        sampled(checkpoint=Checkpoint(path), callback=stop_at(0))
    assert not path.exists()

    monkeypatch.setattr(momenta, "_MOMENTA", {})  # refused with good reason
    with pytest.raises(Stop):
        sampled(checkpoint=Checkpoint(path), callback=stop_at(2))
    with pytest.raises(ValueError, match="keeps something between its steps|keeps more between its steps"):
        sampled(checkpoint=Checkpoint(path))
    path.unlink()
    monkeypatch.undo()

    more = fix
    still = sampled()
    assert not equal(still, whole)
    with pytest.raises(Stop):
        sampled(checkpoint=Checkpoint(path), callback=stop_at(2))
    assert equal(sampled(checkpoint=Checkpoint(path)), still)


def test_the_guidance_of_ace_step_is_refused_unless_it_has_none():
    none = dict.fromkeys(("vae", "text_encoder", "tokenizer", "transformer", "condition_encoder"))
    pipeline = AceStepPipeline(**none, scheduler=FlowMatchEulerDiscreteScheduler())
    song = couple.Trajectory(pipeline, name="song")
    with pytest.raises(ValueError, match=r"'song': the guidance of AceStepPipeline .*guidance_scale=1.0"):
        couple.sample([song], checkpoint=Checkpoint("x"))
    momenta.check(couple.Trajectory(pipeline, guidance_scale=1.0))
    pipeline.is_turbo = True
    momenta.check(song)


class Momentum(Walk):
    """Guidance that remembers earlier predictions where no checkpoint sees them."""

    def __call__(self, generator=None):
        self.scheduler.set_timesteps(STEPS)
        x, mean = torch.randn(2, 4, generator=generator), 0.0
        for t in self.scheduler.timesteps:
            mean = 0.5 * mean + self.net(x, t)
            x = self.scheduler.step(mean, t, x, return_dict=False)[0]
        return x


class Slow(Walk):
    """A state that lags behind the scheduler's."""

    def __call__(self, generator=None):
        self.scheduler.set_timesteps(STEPS)
        x = torch.randn(2, 4, generator=generator)
        for t in self.scheduler.timesteps:
            x = 0.5 * x + 0.5 * self.scheduler.step(self.net(x, t), t, x, return_dict=False)[0]
        return x


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Momentum, "'a': at step 4 its prediction is not what it was"), (Slow, "'a': Slow keeps more between its steps")],
)
def test_a_pipeline_with_a_memory_of_its_own_is_refused_and_never_goes_on_with_wrong_numbers(kind, message, path):
    pipeline = kind()
    with pytest.raises(Stop):
        run(two(pipeline), callback=stop_at(3), checkpoint=Checkpoint(path))
    with pytest.raises(ValueError, match=message):
        run(two(pipeline), checkpoint=Checkpoint(path))
    assert path.exists()


def test_networks_with_other_weights_are_refused_and_with_other_rounding_named(path):
    net = Net()
    with pytest.raises(Stop):
        run(two(Walk(net)), callback=stop_at(3), checkpoint=Checkpoint(path))
    net.gain = 0.4
    with pytest.raises(ValueError, match="networks have other weights"):
        run(two(Walk(net)), checkpoint=Checkpoint(path))
    net.gain = 0.3 + 1e-6
    with pytest.warns(RuntimeWarning, match="will not be bit-equal"):
        run(two(Walk(net)), checkpoint=Checkpoint(path))


def test_generators_that_were_used_up_start_again_where_they_started(path):
    pipeline = Walk(scheduler=SCHEDULERS["DDPM"]())
    whole = run(two(pipeline))
    nodes = two(pipeline)
    with pytest.raises(Stop):
        run(nodes, callback=stop_at(4), checkpoint=Checkpoint(path))
    assert equal(run(nodes, checkpoint=Checkpoint(path)), whole)  # the very same trajectories, as in a notebook


def test_a_run_that_drew_from_the_common_generator_goes_on_bit_for_bit(path):
    pipeline = Walk(scheduler=SCHEDULERS["DDPM"]())

    def nodes():
        return [couple.Trajectory(pipeline, name=name) for name in "ab"]

    torch.manual_seed(3)
    whole, after = run(nodes(), max_batch=1), torch.get_rng_state()
    torch.manual_seed(3)
    with pytest.raises(Stop):
        run(nodes(), max_batch=1, callback=stop_at(2), checkpoint=Checkpoint(path))
    torch.manual_seed(4)
    assert equal(run(nodes(), max_batch=1, checkpoint=Checkpoint(path)), whole)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_checkpoint_changes_no_bit_and_is_gone_when_the_run_has_ended_unless_kept(path):
    pipeline = Walk(scheduler=SCHEDULERS["UniPC"]())
    for weight in (0.0, 0.1):
        plain = run(two(pipeline), weight, max_batch=1)
        assert equal(run(two(pipeline), weight, max_batch=1, checkpoint=Checkpoint(path)), plain)
        assert list(path.parent.iterdir()) == []
    checkpoint = Checkpoint(path, keep=True)
    assert equal(run(two(pipeline), checkpoint=checkpoint), whole := run(two(pipeline)))
    pipeline.net.evaluated = 0
    assert equal(run(two(pipeline), checkpoint=checkpoint), whole)
    assert pipeline.net.evaluated <= 3  # a kept one only has to be walked through
    checkpoint.remove()
    checkpoint.remove()
    assert list(path.parent.iterdir()) == []


def test_a_pipeline_that_raises_leaves_everything_as_it_was_and_the_checkpoint_usable(path):
    net = Net()
    pipeline = Walk(net, SCHEDULERS["UniPC"]())
    whole = run(two(pipeline, on_step=None))
    before = str(vars(pipeline.scheduler))
    healthy = False

    def fail(i):
        if i == 4 and not healthy:
            raise OSError("the network file is gone")

    with pytest.raises(OSError, match="the network file is gone"):
        run(two(pipeline, on_step=fail), checkpoint=Checkpoint(path))
    assert type(net) is Net and "__call__" not in vars(net)
    assert str(vars(pipeline.scheduler)) == before
    healthy = True
    assert equal(run(two(pipeline, on_step=fail), checkpoint=Checkpoint(path)), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", [0, 3, STEPS - 1])
def test_ctrl_c_and_sigterm_finish_the_step_write_a_checkpoint_and_stop(number, when, path):
    pipeline = Walk(scheduler=SCHEDULERS["UniPC"]())
    whole = run(two(pipeline, on_step=None))
    reached, calm = [], False

    def interrupt(i):
        reached.append(i)
        if len(reached) == 2 * when + 1 and not calm:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
        run(two(pipeline, on_step=interrupt), checkpoint=Checkpoint(path, every=100))
    assert signal.getsignal(number) is before
    assert max(reached) == when and len(reached) == 2 * when + 2
    assert "the same call goes on" in str(caught.value) or caught.value.code == 143
    assert type(pipeline.net) is Net
    calm = True
    assert equal(run(two(pipeline, on_step=interrupt), checkpoint=Checkpoint(path)), whole)


def test_a_second_ctrl_c_stops_at_once(path):
    def interrupt(i):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(two(Walk(), on_step=interrupt), checkpoint=Checkpoint(path))
    assert time.monotonic() - start < 10 and not path.exists()


def in_a_process_of_its_own(pipeline, checkpoint, answer):
    """Start sampling in a child; return its id and a pipe that gets a byte for each meeting."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:  # the child never returns into the test runner
        nodes = two(pipeline, num_inference_steps=200)
        samples = run(
            nodes, couple.weights.relax(0.1), callback=lambda info: os.write(writing, b"."), checkpoint=checkpoint
        )
        torch.save(samples, answer)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_killed_at_ten_random_moments_ends_with_the_very_samples(name, path):
    pipeline = Walk(scheduler=SCHEDULERS[name]())
    whole = run(two(pipeline, num_inference_steps=200), couple.weights.relax(0.1))
    moments = random.Random(0)
    for kills in range(11):
        child, meetings = in_a_process_of_its_own(pipeline, Checkpoint(path), path.with_suffix(".samples"))
        if kills < 10:
            for _ in range(moments.randint(1, 5)):  # after so many meetings, and then any moment
                os.read(meetings, 1)
            time.sleep(moments.uniform(0.0, 0.005))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(meetings)
        if kills < 10:
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            assert not path.with_suffix(".samples").exists()
    assert os.waitstatus_to_exitcode(status) == 0
    assert equal(torch.load(path.with_suffix(".samples"), weights_only=True), whole)
    assert not path.exists()


def test_a_full_disk_gives_one_warning_and_the_run_and_the_checkpoint_before_go_on(path):
    """The limit on the size of a file stands for a full disk: writing beyond it fails in the same place."""
    pipeline = Walk()
    whole = run(two(pipeline, on_step=None))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    contents = {}

    def fill(info):
        if info.step == 3:
            contents["good"] = path.read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.warns(RuntimeWarning, match="could not be written .*File too large.*Make room") as caught:
            samples = run(two(pipeline), callback=fill, checkpoint=Checkpoint(path, keep=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len([w for w in caught if "could not be written" in str(w.message)]) == 1
    assert equal(samples, whole)
    assert path.read_bytes() == contents["good"] and list(path.parent.iterdir()) == [path]
    assert equal(run(two(pipeline), checkpoint=Checkpoint(path)), whole)


def test_a_folder_that_goes_away_is_named_and_the_run_ends_well(tmp_path):
    path = tmp_path / "out" / "run"

    def remove(info):
        if info.step == 2:
            shutil.rmtree(path.parent)

    with pytest.warns(RuntimeWarning, match="could not be written"):
        samples = run(two(Walk()), callback=remove, checkpoint=Checkpoint(path))
    assert equal(samples, run(two(Walk())))


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").touch()
    pipeline = Walk()
    with pytest.raises(OSError, match="no checkpoint can be written to .*file/run .*without checkpoint="):
        run(two(pipeline), checkpoint=Checkpoint(tmp_path / "file" / "run"))
    assert pipeline.net.evaluated == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seeds=(0, 2)), "`generator` of trajectory 2 .then generator of seed 1 on cpu, now generator of seed 2"),
        (dict(num_inference_steps=7), r"`num_inference_steps` of trajectory 1 \(then 6, now 7\)"),
        (dict(weight=0.2), "edge 1"),
        (dict(max_batch=1), r"max_batch \(then None, now 1\)"),
        (dict(method=SyncTweedies(), weight=1), "the method"),
        (dict(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)), "`scheduler` of trajectory 1"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_with_what_differs(change, message, path):
    def sampled(seeds=(0, 1), num_inference_steps=6, weight=0.1, scheduler=None, **kwargs):
        nodes = two(Walk(scheduler=scheduler), seeds=seeds, num_inference_steps=num_inference_steps)
        return run(nodes, weight, checkpoint=Checkpoint(path), **kwargs)

    with pytest.raises(Stop):
        sampled(callback=stop_at(3))
    with pytest.raises(ValueError, match=f"is the checkpoint of another run.*{message}.*remove the file"):
        sampled(**change)
    sampled()


def test_a_checkpoint_from_a_gpu_that_is_not_here_is_that_of_another_run_and_not_broken(path):
    checkpoint = Checkpoint(path)
    checkpoint.write({"`unet` of trajectory 1": "float32 on cuda:1"}, {"x0": torch.ones(2)})
    with safe_open(path, framework="pt") as file:
        text, tensors = file.metadata()["couple checkpoint"], {"0": file.get_tensor("0")}
    text = text.replace('"device": "cpu"', '"device": "cuda:1"')
    path.write_bytes(save(tensors, {"couple checkpoint": text, "sha256": states.digest([text, tensors])}))
    with pytest.raises(ValueError, match=r"another run; it differs in .*then float32 on cuda:1, now float32 on cpu"):
        checkpoint.read({"`unet` of trajectory 1": "float32 on cpu"})


def test_step_caches_are_refused_by_name(path):
    net = Net()
    net.is_cache_enabled = True
    with pytest.raises(ValueError, match=r"'a': Net has a step cache.*network.disable_cache\(\)"):
        run(two(Walk(net)), checkpoint=Checkpoint(path))


def test_a_method_that_does_not_say_what_it_remembers_is_refused(path):
    class Own:
        evaluations = 1

        def begin(self, trajectories, edges):
            pass

        def meet(self, meeting):
            for arrival in meeting.due:
                arrival.step()

    with pytest.raises(TypeError, match=r"Own does not say what it remembers.*`remember\(\)`"):
        run(two(Walk()), method=Own(), checkpoint=Checkpoint(path))


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "1"])
def test_a_strange_interval_is_refused(every):
    with pytest.raises(ValueError, match="`every` must be a whole number of meetings, 1 or more"):
        Checkpoint("x", every=every)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run"
    with pytest.raises(Stop):
        run(two(Walk()), callback=stop_at(3), checkpoint=Checkpoint(path))
    return path.read_bytes()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_or_foreign_file_is_refused_in_one_sentence(data, whole_file, tmp_path):
    size = len(whole_file)
    damage = data.draw(st.sampled_from(["cut", "flip", "insert", "other"]))
    at = data.draw(st.integers(0, size - 1))
    if damage == "cut":
        content = whole_file[:at]
    elif damage == "flip":
        content = whole_file[:at] + bytes([whole_file[at] ^ data.draw(st.integers(1, 255))]) + whole_file[at + 1 :]
    elif damage == "insert":
        content = whole_file[:at] + data.draw(st.binary(min_size=1, max_size=20)) + whole_file[at:]
    else:
        content = data.draw(st.binary(max_size=200))
    path = tmp_path / "run"
    path.write_bytes(content)
    pipeline = Walk()
    with pytest.raises(ValueError, match="is not a whole checkpoint of couple") as caught:
        run(two(pipeline), checkpoint=Checkpoint(path))
    assert "\n" not in str(caught.value)
    assert pipeline.net.evaluated == 0 and path.read_bytes() == content


def test_a_whole_checkpoint_is_read_after_all_that(whole_file, tmp_path):
    path = tmp_path / "run"
    path.write_bytes(whole_file)
    assert equal(run(two(Walk()), checkpoint=Checkpoint(path)), run(two(Walk())))
