"""Trajectories divided among processes: the samples are those of one process, and no error leaves anyone waiting."""

import copy
import os
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh

import couple
from couple import parallel
from couple.parallel.shares import divide
from tests.ranks import together
from tests.tiny import FAMILIES

LAW = couple.weights.relax(1.0)


def sampled(nodes, edges, ranks=None, **kwargs):
    """By number of the trajectory, the samples that this process made."""
    result = couple.sample(nodes, edges, **{"max_batch": 1, "progress": False, **kwargs}, parallel=ranks)
    return {k: torch.as_tensor(result[node][0]) for k, node in enumerate(nodes) if node in result}


def families(*names, **changes):
    return [
        couple.Trajectory(FAMILIES[name].pipeline(), name=f"{name} {k}", **{**FAMILIES[name].arguments(k), **changes})
        for k, name in enumerate(names)
    ]


def gaussian(k, steps=4, rows=1, scheduler=None, dtype=torch.float64, name=None):
    """A call of an exact denoiser, whose arithmetic is elementwise: not a bit depends on where the memory lies."""
    denoiser = couple.ExactDenoiser.gaussian(torch.arange(3.0) + k, 0.5 + k / 4)
    pipeline = couple.DenoiserPipeline(denoiser, scheduler or FlowMatchEulerDiscreteScheduler())
    return couple.Trajectory(
        pipeline, name=name or f"g{k}", shape=(rows, 3), num_inference_steps=steps, dtype=dtype,
        generator=torch.Generator().manual_seed(k),
    )  # fmt: skip


def merged(answers):
    """The samples of all ranks by trajectory; each was made once."""
    for answer in answers:
        assert not isinstance(answer, Exception) and answer is not None, answer
    found = {k: sample for answer in answers for k, sample in answer.items()}
    assert len(found) == sum(map(len, answers))
    return found


def graph(name):
    """Trajectories and edges of one test, made anew on every process."""
    if name == "chain of unequal step counts":
        a, b, c = (gaussian(k, steps) for k, steps in enumerate((4, 6, 3)))
        return [a, b, c], couple.chain([a, b, c], weight=LAW)
    if name == "chain out of order":
        a, b, c = (gaussian(k) for k in range(3))
        return [c, a, b], couple.chain([a, b, c], weight=0.1)
    if name == "directed":
        a, b = gaussian(0), gaussian(1, 7)
        return [a, b], couple.pair(a, b, weight=LAW, directed=True)
    if name == "rows of unequal shapes":
        a, b = gaussian(0, rows=4), gaussian(1, rows=1)
        return [a, b], couple.pair(a[2], b, weight=LAW)
    if name == "float32 and DDIM":
        a, b = (gaussian(k, scheduler=DDIMScheduler(), dtype=torch.float32) for k in range(2))
        return [a, b], couple.pair(a, b, energy=couple.energies.huber(0.5), weight=0.1)
    if name == "implicit":
        a, b, c = (gaussian(k) for k in range(3))
        return [a, b, c], couple.chain([a, b, c], weight=couple.weights.implicit(2.0))
    if name == "two pairs and one alone":
        a, b, c, d, e = (gaussian(k) for k in range(5))
        return [a, b, c, d, e], [*couple.pair(a, c, weight=LAW), *couple.pair(b, d, weight=LAW)]
    if name == "complete":
        found = [gaussian(k) for k in range(7)]
        return found, couple.complete(found, weight=LAW, normalize=True)
    if name == "a window":
        a, b = gaussian(0, 5), gaussian(1, 5)
        return [a, b], couple.pair(a, b, weight=couple.weights.window(LAW, 0.3, 0.7))
    a, b = families(*PIPELINES[name])
    return [a, b], couple.pair(a, b, weight=LAW)


GRAPHS = [
    "chain of unequal step counts",
    "chain out of order",
    "directed",
    "rows of unequal shapes",
    "float32 and DDIM",
    "implicit",
    "two pairs and one alone",
    "a window",
]
PIPELINES = {
    "latent diffusion": ("sd21", "sd21"),
    "flow, tokens": ("flux", "flux"),
    "video": ("wan", "wan"),
    "views": ("mv_adapter t2mv sd21", "mv_adapter t2mv sd21"),
    "two models": ("controlnet", "instruct_pix2pix"),
}


def all_graphs(rank, names):
    ranks = parallel.Ranks()
    return {(name, k): sample for name in names for k, sample in sampled(*graph(name), ranks).items()}


def test_two_processes_give_every_bit_of_one():
    found = merged(together(all_graphs, names=[*GRAPHS, "complete"]))
    for name in GRAPHS:
        for k, expected in sampled(*graph(name)).items():
            np.testing.assert_array_equal(found[name, k], expected)
    # Who sums up a dense graph alone takes another order; only the last digits see it.
    for k, expected in sampled(*graph("complete")).items():
        np.testing.assert_allclose(found["complete", k], expected, rtol=0, atol=1e-12)


def test_three_processes_give_what_one_gives():
    found = merged(together(all_graphs, size=3, names=["chain of unequal step counts", "two pairs and one alone"]))
    for name in ("chain of unequal step counts", "two pairs and one alone"):
        for k, expected in sampled(*graph(name)).items():
            np.testing.assert_array_equal(found[name, k], expected)


def test_two_processes_give_what_one_gives_for_real_pipelines():
    found = merged(together(all_graphs, names=list(PIPELINES)))
    for name in PIPELINES:
        trajectories, edges = graph(name)
        alone = sampled(*[graph(name)[0], []])
        for k, expected in sampled(trajectories, edges).items():
            np.testing.assert_allclose(found[name, k], expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max()))
            assert not torch.allclose(expected, alone[k], atol=1e-3)


def directed(rank):
    return sampled(*graph("directed"), parallel.Ranks())


def test_the_source_of_a_directed_edge_is_untouched_and_its_target_is_not():
    found = merged(together(directed))
    alone = sampled(graph("directed")[0], [])
    np.testing.assert_array_equal(found[0], alone[0])
    assert not np.allclose(found[1], alone[1], atol=1e-3)


def counted(rank):
    """How much travels, over which calls, beside the samples."""
    sizes, stock = [], dist.broadcast

    def broadcast(tensor, *args, **kwargs):
        sizes.append((str(tensor.dtype), tensor.numel()))
        return stock(tensor, *args, **kwargs)

    dist.broadcast = broadcast
    for name in ("flow, tokens", "two pairs and one alone"):
        sampled(*graph(name), parallel.Ranks())
        sizes.append(name)
    return sizes


def test_only_predictions_of_edges_between_ranks_travel_once_a_step():
    latents = FAMILIES["flux"].pipeline()(**{**FAMILIES["flux"].arguments(0), "output_type": "latent"})[0]
    steps = FAMILIES["flux"].arguments(0)["num_inference_steps"]
    for sizes in together(counted):
        flux = sizes[: sizes.index("flow, tokens")]
        assert flux == [("torch.float32", latents.numel())] * steps * 2
        # a, c | b, d, e: the pairs are whole, nothing travels
        assert sizes[len(flux) + 1 :] == ["two pairs and one alone"]


def seen(ranks=None):
    """What a callback is shown at each progress: whose predictions, and the energy of each edge."""
    shown = {}

    def look(info):
        energies = {edge.label: energy for edge, energy in info.energies.items()}
        shown[info.progress] = {"x0": sorted(t.name for t in info.x0), "energies": energies}

    sampled(*graph("chain of unequal step counts"), ranks, callback=look)
    return shown


def seen_by(rank):
    return seen(parallel.Ranks())


def test_a_callback_sees_its_own_and_what_they_are_joined_to():
    first, second = together(seen_by)
    alone = seen()
    # g0 with its 4 steps is here; g1 and g2, with 6 and 3, there.
    assert list(first) == [k / 4 for k in range(4)] and list(second) == [k / 6 for k in range(6)]
    for shown, names, edges in (
        (first, ["g0", "g1"], ["'g0' - 'g1'"]),
        (second, ["g0", "g1", "g2"], ["'g0' - 'g1'", "'g1' - 'g2'"]),
    ):
        for progress, row in shown.items():
            assert row["x0"] == names
            assert row["energies"] == {edge: alone[progress]["energies"][edge] for edge in edges}


def failing(rank, who, when):
    ranks = parallel.Ranks()
    (a, b), edges = graph("flow, tokens")

    def fail(info):
        if rank == who and info.step == when:
            raise ValueError(f"boom on {rank}")

    try:
        sampled([a, b], edges, ranks, callback=fail)
    except (ValueError, ConnectionError) as error:
        told = f"{type(error).__name__}: {error}"
    # Nobody is left in the middle of a conversation: the same ranks go on.
    return {"told": told, "again": sampled(*graph("directed"), ranks)}


@pytest.mark.parametrize(("who", "when"), [(1, 1), (0, 2)])
def test_an_error_on_one_rank_ends_the_others_and_they_can_go_on(who, when):
    answers = together(failing, who=who, when=when)
    assert answers[who]["told"] == f"ValueError: boom on {who}"
    assert answers[1 - who]["told"] == (
        f"ConnectionAbortedError: rank {who} failed, and with it the calls of rank {1 - who}: ValueError: boom on {who}"
    )
    found = merged([answer["again"] for answer in answers])
    for k, expected in sampled(*graph("directed")).items():
        np.testing.assert_array_equal(found[k], expected)


class Ending(couple.DenoiserPipeline):
    """Fails after its last step, where others may have ended already."""

    def __call__(self, *args, **kwargs):
        super().__call__(*args, **kwargs)
        raise OSError("the disk is full")


def failing_at_the_end(rank):
    (a, b), _ = graph("directed")
    b = couple.Trajectory(Ending(b.pipeline.model, b.pipeline.scheduler), name="b", **b.call_kwargs)
    try:
        return sampled([a, b], couple.pair(a, b, weight=0.1), parallel.Ranks())
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def test_an_error_after_the_last_step_is_told_too():
    assert together(failing_at_the_end) == [
        "ConnectionAbortedError: rank 1 failed, and with it the calls of rank 0: OSError: the disk is full",
        "OSError: the disk is full",
    ]


def exploding(weight, ranks=None):
    """A pair whose numbers run away over an edge, and one alone."""
    a, b, c = (gaussian(k) for k in range(3))
    try:
        return sampled([a, b, c], couple.pair(a, b, weight=weight), ranks and ranks(owners={a: 0, b: 1, c: 1}))
    except couple.Diverged as error:
        left = {k: torch.as_tensor(error.result[t][0]) for k, t in enumerate((a, b, c)) if t in error.result}
        return {**left, "lost": sorted(t.name for t in error.lost), "told": next(iter(error.lost.values()))}


def exploding_apart(rank, weight):
    return exploding(weight, parallel.Ranks)


def test_numbers_that_run_away_over_an_edge_between_ranks_leave_the_others():
    weight = 1e308
    expected = exploding(weight)
    assert expected["lost"] == ["g0", "g1"] and expected.keys() == {2, "lost", "told"}
    first, second = together(exploding_apart, weight=weight)
    assert first["lost"] == second["lost"] == ["g0", "g1"]
    assert first["told"] == second["told"] == expected["told"]
    assert first.keys() == {"lost", "told"}
    np.testing.assert_array_equal(second[2], expected[2])


def vanishing(rank, way):
    ranks = parallel.Ranks(timeout=2.0 if way == "hang" else 60.0)

    def vanish(info):
        if rank == 1 and info.step == 1:
            if way == "hang":
                time.sleep(6)
            else:
                os._exit(1)

    started = time.monotonic()
    try:
        sampled(*graph("directed"), ranks, callback=vanish)
    except ConnectionError as error:
        return [str(error), time.monotonic() - started < 30]


@pytest.mark.parametrize("way", ["hang", "exit"])
def test_a_rank_that_is_gone_or_hangs_leaves_nobody_waiting(way):
    answer, _ = together(vanishing, way=way)
    message, soon = answer
    assert message.startswith("rank 0 lost the others: one has gone without a word, or took longer than the `timeout`")
    assert soon


def refused(rank):
    ranks = parallel.Ranks()
    a, b = (gaussian(k) for k in range(2))
    tries = {
        "method": lambda: sampled([a, b], couple.pair(a, b, weight=1.0), ranks, method=couple.methods.SyncTweedies()),
        "few": lambda: sampled([a], [], ranks),
        "order": lambda: sampled([a, b] if rank else [b, a], [], ranks),
        "weight": lambda: sampled([a, b], couple.pair(a, b, weight=0.1 * (1 + rank)), ranks),
        "owner": lambda: sampled([a, b], [], parallel.Ranks(owners={a: 0})),
        "owners": lambda: sampled([a, b], [], parallel.Ranks(owners={a: 0, b: 2})),
        "key": lambda: couple.sample([a, b], progress=False, parallel=ranks)[(b, a)[rank]],
    }
    found = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except (ValueError, NotImplementedError, KeyError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def test_what_cannot_be_divided_is_refused_on_every_rank():
    for rank, found in enumerate(together(refused)):
        assert "couple.methods.Coupled() alone: SyncTweedies needs the states" in found["method"]
        assert "2 ranks for 1 trajectories: start as many" in found["few"]
        for name in ("order", "weight"):
            assert f"ranks {rank} and {1 - rank} were given different trajectories, edges or owners" in found[name]
        assert "'g1': `owners` must name its rank, 0 to 1; got None" in found["owner"]
        assert "'g1': `owners` must name its rank, 0 to 1; got 2" in found["owners"]
        assert f"'g{1 - rank}'" in found["key"] and "was not sampled by this process" in found["key"]


def not_loaded(rank):
    """Each rank has the weights of its own pipeline only."""
    pipelines = [FAMILIES[name].pipeline() for name in PIPELINES["two models"]]
    hollow = copy.deepcopy(pipelines[1 - rank]).to("meta")
    pipelines[1 - rank] = hollow
    a, b = (
        couple.Trajectory(pipeline, name=f"{name} {k}", **FAMILIES[name].arguments(k))
        for k, (pipeline, name) in enumerate(zip(pipelines, PIPELINES["two models"], strict=True))
    )
    ranks = parallel.Ranks(owners={a: 0, b: 1})
    return sampled([a, b], couple.pair(a, b, weight=LAW), ranks)


def test_a_rank_needs_no_weights_of_what_others_sample():
    found = merged(together(not_loaded))
    for k, expected in sampled(*graph("two models")).items():
        np.testing.assert_allclose(found[k], expected, rtol=0, atol=1e-5)


def groups(rank):
    """Two groups of two processes; those of a group make one call together, by diffusers' context parallelism."""
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("trajectories", "ring", "ulysses"))
    ranks = parallel.Ranks(mesh["trajectories"].get_group())
    nodes, edges = graph("flow, tokens")
    context = ContextParallelConfig(ulysses_degree=2, mesh=mesh["ring", "ulysses"])
    with pytest.MonkeyPatch.context() as patch:
        # diffusers asks which accelerators there are before it looks at the mesh.
        patch.setattr(torch._C, "_get_accelerator", lambda: torch.device("cpu"))
        patch.setattr(torch.accelerator, "device_count", lambda: 4)
        nodes[0].pipeline.transformer.enable_parallelism(config=context)
    tokens, x0s = [], []
    nodes[0].pipeline.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda block, args, kwargs: tokens.append(kwargs["hidden_states"].shape[1]), with_kwargs=True
    )
    samples = sampled(nodes, edges, ranks, callback=lambda info: x0s.append(torch.stack([info.x0[t] for t in nodes])))
    own = torch.stack(x0s)
    others = [torch.empty_like(own) for _ in range(2)]
    dist.all_gather(others, own, group=mesh["ulysses"].get_group())
    return {"rank": ranks.rank, "equal": torch.equal(*others), "tokens": tokens[0], "samples": samples}


def test_the_processes_of_a_group_make_one_call_together():
    answers = together(groups, size=4)
    assert [answer["rank"] for answer in answers] == [0, 0, 1, 1]
    assert all(answer["equal"] for answer in answers)
    nodes, edges = graph("flow, tokens")
    shapes = []
    expected = sampled(nodes, edges, callback=lambda info: shapes.append(info.x0[nodes[0]].shape))
    # Each process has half of the tokens of each picture.
    assert {answer["tokens"] for answer in answers} == {shapes[0][1] // 2}
    for replica in (0, 1):
        found = merged([answers[k]["samples"] for k in (replica, 2 + replica)])
        for k in expected:
            np.testing.assert_allclose(found[k], expected[k], rtol=0, atol=1e-5)


def test_ranks_need_processes_that_know_each_other():
    with pytest.raises(RuntimeError, match="start them with torchrun"):
        parallel.Ranks()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 7))
def test_the_busiest_rank_has_as_little_to_do_as_a_row_allows(steps, ranks):
    ranks = min(ranks, len(steps))
    nodes = [gaussian(k, count, name=str(k)) for k, count in enumerate(steps)]
    owners = list(divide(nodes, [], ranks).values())
    assert owners == sorted(owners) and set(owners) == set(range(ranks))
    load = [sum(c for c, owner in zip(steps, owners, strict=True) if owner == rank) for rank in range(ranks)]

    def fewest(limit):
        pieces, total = 1, 0
        for count in steps:
            if total + count > limit:
                pieces, total = pieces + 1, 0
            total += count
        return pieces

    assert max(load) == min(limit for limit in range(max(steps), sum(steps) + 1) if fewest(limit) <= ranks)


def test_linked_trajectories_are_kept_together():
    a, b, c, d = (gaussian(k) for k in range(4))
    assert divide([a, b, c, d], [*couple.pair(a, c, weight=1), *couple.pair(b, d, weight=1)], 2) == {
        a: 0, c: 0, b: 1, d: 1,
    }  # fmt: skip


def test_a_call_costs_its_steps_times_the_parameters():
    small, large = FAMILIES["sd21"].pipeline(), FAMILIES["sdxl"].pipeline()
    one, two, three = (
        couple.Trajectory(pipeline, prompt="a", num_inference_steps=steps)
        for pipeline, steps in ((large, 100), (small, 2), (small, 2))
    )
    assert list(divide([two, three, one], [], 2).values()) == [0, 0, 1]
    assert list(divide([one, two, three], [], 2).values()) == [0, 1, 1]
