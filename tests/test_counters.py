"""What coupling costs, in exact counts: floating-point operations, network calls, dispatched operations, syncs, memory.

No time is measured here; that is what `benchmarks/` does, with the same counters.
"""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import couple
from benchmarks.harness import Operations, Reads
from benchmarks.models import SUBJECTS
from couple import coupling
from couple.weights import Level
from tests.tiny import FAMILIES

STEPS = 3
families = pytest.mark.parametrize("name", ["sd21", "flux", "wan", "sd3"])


def pair(name, steps=STEPS):
    family = FAMILIES[name]
    return [
        couple.Trajectory(
            family.pipeline(), **{**family.arguments(k), "num_inference_steps": steps, "output_type": "latent"}
        )
        for k in (0, 1)
    ]


def run(name, weight=None, steps=STEPS, **options):
    a, b = pair(name, steps)
    edges = [] if weight is None else couple.pair(a, b, weight=weight)
    return couple.sample([a, b], edges, progress=False, **options)


def operations(program):
    with Operations() as counted:
        program()
    return counted.count


def syncs(program):
    with Operations() as operations, Reads() as reads:
        program()
    return operations.syncs + reads.count


@families
@pytest.mark.parametrize("max_batch", [1, None])
def test_a_coupled_pair_makes_the_floating_point_operations_of_two_stock_calls(name, max_batch):
    with FlopCounterMode(display=False) as stock:
        for trajectory in pair(name):
            trajectory.pipeline(**trajectory.call_kwargs)
    with FlopCounterMode(display=False) as coupled:
        run(name, weight=0.01, max_batch=max_batch)
    assert coupled.get_total_flops() == stock.get_total_flops() > 0


@families
def test_merged_forwards_halve_the_network_calls(name):
    separate = run(name, weight=0.01, max_batch=2).forwards
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    denoiser = next(
        component for part, component in FAMILIES[name].pipeline().components.items() if part in ("unet", "transformer")
    )
    hook = denoiser.register_forward_hook(count)
    try:
        for trajectory in pair(name):
            trajectory.pipeline(**trajectory.call_kwargs)
    finally:
        hook.remove()
    assert 2 * separate == calls


@families
def test_a_quadratic_pair_costs_at_most_twelve_tensor_operations_a_step(name):
    run(name, 0.01, 1)  # builds the pipeline and fills what is remembered
    extra = [
        operations(lambda: run(name, 0.01, steps)) - operations(lambda: run(name, None, steps))  # noqa: B023
        for steps in (4, 8)
    ]
    assert (extra[1] - extra[0]) / 4 <= 12
    assert extra[0] > 0


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_merged_pair_dispatches_little_more_than_half_of_two_stock_calls(name):
    subject = SUBJECTS[name](full=False, height=64, width=64, num_inference_steps=4)

    def stock():
        for k in (0, 1):
            subject.pipeline(**subject.call(k))

    def coupled():
        a, b = subject.trajectories(2)
        couple.sample([a, b], couple.pair(a, b, weight=0.01), progress=False)

    coupled()
    assert operations(coupled) <= 0.55 * operations(stock)


def circulant(nodes, reach):
    """Each node joined to those at most `reach` after it, in a circle."""
    return [
        couple.Edge(nodes[i], nodes[(i + k) % len(nodes)], weight=0.01)
        for i, k in itertools.product(range(len(nodes)), range(1, reach + 1))
    ]


def test_operations_of_a_dense_quadratic_graph_do_not_depend_on_the_number_of_edges():
    subject = SUBJECTS["flux"](full=False, height=32, width=32, num_inference_steps=3)
    counts = {}
    for reach in (2, 3, 6):
        nodes = subject.trajectories(7)
        edges = circulant(nodes, reach)
        counts[len(edges)] = operations(lambda: couple.sample(nodes, edges, progress=False))  # noqa: B023
    assert list(counts) == [14, 21, 42]
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("count", [8, 64])
def test_a_dense_pull_takes_a_fixed_number_of_operations_whatever_the_number_of_nodes(count):
    nodes = [couple.Trajectory(print) for _ in range(count)]
    level = Level(progress=0.5, alpha=0.5, sigma=0.5, log_snr=0.0, delta_log_snr=0.1)
    x0s = {node: torch.randn(1, 4) for node in nodes}
    edges = couple.complete(nodes, weight=0.01)
    assert operations(lambda: coupling.pulls(x0s, edges, dict.fromkeys(nodes, level))) <= 12


@families
@pytest.mark.parametrize("max_batch", [1, None])
def test_coupling_adds_no_sync_to_a_step(name, max_batch):
    run(name, 0.01)  # fills what is remembered

    def added(steps):
        coupled = syncs(lambda: run(name, 0.01, steps, max_batch=max_batch))
        return coupled - syncs(lambda: run(name, None, steps, max_batch=max_batch))

    # Tables of levels may be read once a run, never once a step.
    assert added(8) == added(4)


@pytest.mark.parametrize("read", [Operations.__new__, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, bool])
def test_the_counter_of_syncs_sees_every_way_to_read_a_tensor(read):
    expected = read is not Operations.__new__
    assert syncs(lambda: read(torch.ones(())) if expected else torch.ones(())) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_coupled_step_does_not_wait_for_the_device():
    subject = SUBJECTS["flux"](full=False, height=64, width=64, num_inference_steps=6)
    subject.pipeline.to("cuda")

    def trajectories(*watchers):
        return [
            couple.Trajectory(subject.pipeline, **subject.call(k), callback_on_step_end=watchers[k]) for k in (0, 1)
        ]

    def strict(pipeline, step, timestep, values):
        # The first step may read tables; from the second to the one before the last nothing may wait.
        torch.cuda.set_sync_debug_mode("error" if 1 <= step < 4 else "default")
        return {}

    a, b = trajectories(strict, strict)
    try:
        couple.sample([a, b], couple.pair(a, b, weight=0.01), progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("name", "states", "prompts"), [("flux", 8, 1), ("sd21", 10, 2)])
def test_another_unmerged_trajectory_costs_memory_for_its_latents_only(name, states, prompts):
    subject = SUBJECTS[name](full=False, num_inference_steps=2)

    def peak(count, max_batch):
        nodes = subject.trajectories(count)
        with Operations() as counted:
            couple.sample(nodes, couple.complete(nodes, weight=0.01), max_batch=max_batch, progress=False)
        return counted.peak

    peak(5, 1)  # fills what is remembered
    each = (peak(8, 1) - peak(5, 1)) / 3
    # A state, its prediction, x0 and pull and their sums; with guidance two rows of input and output, and the prompt
    # beside the negative one.
    call = subject.call(0)
    prompt = sum(call[name].nbytes for name in subject.embeddings)
    latent = subject.pipeline(**call).images.nbytes
    assert each <= states * latent + prompts * prompt
    assert 2 * each < (peak(8, None) - peak(5, None)) / 3
