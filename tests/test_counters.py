"""What coupling costs, in exact counts: floating-point operations, network calls, dispatched tensor operations."""

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import couple
from tests.tiny import FAMILIES

STEPS = 3
families = pytest.mark.parametrize("name", ["sd21", "flux", "wan", "sd3"])


class Operations(TorchDispatchMode):
    """Counts every dispatched operation."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


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


def operations(name, weight, steps):
    with Operations() as counted:
        run(name, weight, steps)
    return counted.count


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
    extra = [operations(name, 0.01, steps) - operations(name, None, steps) for steps in (4, 8)]
    assert (extra[1] - extra[0]) / 4 <= 12
    assert extra[0] > 0
