"""Several processes, each with a share of the trajectories: what they tell each other when their calls meet.

Every process (a rank, started by `torchrun`) is given the same trajectories and edges and makes the calls of its own
share. At a meeting ranks tell each other where on the clock they are; those furthest behind send the clean predictions
that edges to other ranks need, and everyone computes the pulls on its own trajectories. That is float32 of the size of
one latent for each trajectory and step (1 MB for a Flux picture of 1024 pixels); networks, states and noise stay where
they are, so that the samples are those of one process.

Positions, shapes and levels are plain numbers and travel over gloo, on the host: no device waits for them. Predictions
travel over the group that was given (NCCL between GPUs). An error travels like a position, so that no rank waits for
one that has gone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from datetime import timedelta
from fractions import Fraction
from types import TracebackType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from couple import weights
from couple.engine.loop import Method
from couple.graph import Edge
from couple.methods import Coupled
from couple.methods.sharing import components
from couple.parallel.shares import divide
from couple.trajectory import Trajectory
from couple.weights import Level

_ENDED, _WAITS, _FAILED = range(3)
#: Of a prediction: whether it is sent, whether it is float64, its number of axes, the axes, the level.
_AXES = 8
_ROW = 3 + _AXES + 5
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

Prediction = tuple[Tensor, Level]


class Ranks:
    """The processes that share the trajectories of `couple.sample(..., parallel=...)`, by rank.

    Make it once, on all of them, after `torch.distributed.init_process_group`.

    To let several GPUs work on one call as well, by the context parallelism of diffusers, make a mesh and give its
    first axis: the processes of a row of the mesh then make the calls of one share together. They must make the same
    calls, with generators of equal seeds.

        mesh = init_device_mesh("cuda", (2, 1, 4), mesh_dim_names=("trajectories", "ring", "ulysses"))
        context = ContextParallelConfig(ulysses_degree=4, mesh=mesh["ring", "ulysses"])
        pipe.transformer.enable_parallelism(config=context)
        ranks = couple.parallel.Ranks(mesh["trajectories"].get_group())

    Args:
        group: a process group; None for all processes.
        owners: by trajectory, the rank that makes its call. None divides them so that ranks have equally much to do
            and linked trajectories are together, see `couple.parallel.shares.divide`.
        timeout: how long a rank waits for word from the others, seconds; above the longest step, and the longest
            decoding of a sample.

    Attributes:
        rank: number of this process in the group, from 0.
        size: how many there are.

    Raises:
        RuntimeError: torch.distributed is not initialised.
        ValueError: this process is not in the group.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        owners: Mapping[Trajectory, int] | None = None,
        timeout: float = 1800.0,
    ) -> None:
        """Open a channel for plain numbers between the processes of the group."""
        if not dist.is_initialized():
            raise RuntimeError(
                "`Ranks` needs processes that know each other: start them with torchrun --nproc-per-node N, and write "
                'torch.distributed.init_process_group("cpu:gloo,cuda:nccl") before.'
            )
        self._group = group
        self._owners = owners
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("`group` does not hold this process; give the group that it is in.")
        channel = dist.new_group(
            dist.get_process_group_ranks(group if group is not None else dist.group.WORLD),
            timeout=timedelta(seconds=timeout),
            backend="gloo",
            use_local_synchronization=True,
        )
        self._channel = cast(dist.ProcessGroup, channel)

    def join(self, trajectories: Sequence[Trajectory], edges: Sequence[Edge], method: Method) -> Peers:
        """Divide the trajectories and return what this rank needs to run its share; called on all ranks.

        Raises:
            NotImplementedError: the method is not `methods.Coupled`.
            ValueError: there are fewer trajectories than ranks, `owners` does not fit, or the ranks were given
                different trajectories or edges.
            ConnectionError: a rank did not come.
        """
        if not isinstance(method, Coupled):
            raise NotImplementedError(
                f"`parallel` works with couple.methods.Coupled() alone: {type(method).__name__} needs the states of "
                "all trajectories in one process."
            )
        owners = self._divided(trajectories, edges)
        # By its configuration: the name of a group that was started without one says nothing.
        nccl = torch.cuda.is_available() and "nccl" in str(dist.get_backend_config(self._group))
        group = self._group if nccl else self._channel
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        peers = Peers(self._channel, group, device, owners, edges)
        told = [[(t.name, type(t.pipeline).__name__, owners[t]) for t in trajectories]]
        told += [[edge.label, _ADDRESS.sub("", repr(edge.weight))] for edge in edges]
        peers.agree(repr(told))
        return peers

    def _divided(self, trajectories: Sequence[Trajectory], edges: Sequence[Edge]) -> dict[Trajectory, int]:
        if self._owners is None:
            if len(trajectories) < self.size:
                raise ValueError(
                    f"`parallel` has {self.size} ranks for {len(trajectories)} trajectories: start as many as there "
                    "are trajectories, or let several share a call, see couple.parallel.Ranks."
                )
            return divide(trajectories, edges, self.size)
        for trajectory in trajectories:
            owner = self._owners.get(trajectory)
            if not isinstance(owner, int) or not 0 <= owner < self.size:
                raise ValueError(
                    f"trajectory {trajectory.name!r}: `owners` must name its rank, 0 to {self.size - 1}; got {owner!r}."
                )
        return {trajectory: self._owners[trajectory] for trajectory in trajectories}


class Peers:
    """The other ranks of one run, as the engine sees them (`engine.Peers`).

    Args:
        channel: the gloo group of all ranks.
        group: the group over which predictions travel.
        device: on which they do.
        owners: by trajectory, the rank that makes its call.
        edges: the coupling.

    Attributes:
        mine: the trajectories whose calls this rank makes.
    """

    def __init__(
        self,
        channel: dist.ProcessGroup,
        group: dist.ProcessGroup | None,
        device: torch.device,
        owners: Mapping[Trajectory, int],
        edges: Sequence[Edge],
    ) -> None:
        """Find out which predictions have to travel."""
        self._channel, self._group, self._device = channel, group, device
        self._rank, size = dist.get_rank(channel), dist.get_world_size(channel)
        self._all = list(owners)
        self.mine = [trajectory for trajectory, owner in owners.items() if owner == self._rank]
        abroad = {t for ends in _linked(edges) for t in ends if len({owners[end] for end in ends}) > 1}
        self._told = [[t for t, owner in owners.items() if owner == rank and t in abroad] for rank in range(size)]
        self._over = False

    def agree(self, told: str) -> None:
        """Raise ValueError unless all ranks say the same."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(told.encode()).digest()), dtype=torch.uint8)
        for rank, other in enumerate(self._gathered(digest)):
            if not torch.equal(other, digest):
                raise ValueError(
                    f"ranks {self._rank} and {rank} were given different trajectories, edges or owners: every rank "
                    "must call couple.sample with the same ones, in the same order."
                )

    def exchange(
        self, progress: Fraction | None, seen: Mapping[Trajectory, Prediction], lost: Mapping[Trajectory, str]
    ) -> tuple[Fraction | None, dict[Trajectory, Prediction], dict[Trajectory, str]]:
        """Tell the others how far this rank is and hear how far they are.

        Args:
            progress: of the calls of this rank that are furthest behind; None if all have ended.
            seen: their predictions.
            lost: trajectories that this rank found not to be finite since it told last, and why.

        Returns:
            The progress of the calls that are furthest behind on any rank, None if all have ended everywhere; the
            predictions of those calls, as far as they are this rank's or have an edge to another rank; and who is lost
            on any rank, in which case there are no predictions.

        Raises:
            ConnectionAbortedError: a rank failed.
            ConnectionError: a rank has gone without a word, or did not answer in time.
        """
        mine = {t: _plain(seen[t][0]).to(self._device).contiguous() for t in self._told[self._rank] if t in seen}
        head = torch.zeros(1 + max(map(len, self._told)), _ROW, dtype=torch.float64)
        if progress is not None:
            head[0, :3] = torch.tensor([_WAITS, progress.numerator, progress.denominator])
        sorry = json.dumps({self._all.index(t): why for t, why in lost.items()}).encode() if lost else b""
        head[0, 3] = len(sorry)
        for row, trajectory in zip(head[1:], self._told[self._rank], strict=False):
            if trajectory in mine:
                row[:] = _written(mine[trajectory], seen[trajectory][1])
        heads = [other.tolist() for other in self._gathered(head)]
        self._check(heads)
        places = [Fraction(int(first[1]), int(first[2])) if first[0] == _WAITS else None for first, *_ in heads]
        behind = min((place for place in places if place is not None), default=None)
        if gone := self._gone([int(first[3]) for first, *_ in heads], sorry):
            return behind, {}, gone
        found = dict(seen) if progress == behind else {}
        pending = []
        for rank, (place, (_, *rows)) in enumerate(zip(places, heads, strict=True)):
            for trajectory, row in zip(self._told[rank], rows, strict=False):
                if place != behind or not row[0]:
                    continue
                x0, level = (mine[trajectory], None) if rank == self._rank else _read(row, self._device)
                if level is not None:
                    found[trajectory] = x0, level
                pending.append(self._try(dist.broadcast, x0, group=self._group, group_src=rank, async_op=True))
        for work in pending:
            self._try(work.wait)
        return behind, found, {}

    def __enter__(self) -> Peers:
        """Start to listen to each other."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Tell the others if this rank failed."""
        if error is None or self._over:
            return
        text = f"{type(error).__name__}: {error}".rstrip(": ").encode()
        head = torch.zeros(1 + max(map(len, self._told)), _ROW, dtype=torch.float64)
        head[0, :2] = torch.tensor([_FAILED, len(text)])
        # Whatever goes wrong from here on, the user sees the first error.
        with suppress(ConnectionError):
            self._check([other.tolist() for other in self._gathered(head)], text)

    def _check(self, heads: Sequence[Sequence[Sequence[float]]], own: bytes = b"") -> None:
        """Raise what went wrong on the first rank that failed, if one did."""
        failed = [rank for rank, (first, *_) in enumerate(heads) if first[0] == _FAILED]
        if not failed:
            return
        text = self._said(failed[0], int(heads[failed[0]][0][1]), own)
        self._over = True
        raise ConnectionAbortedError(
            f"rank {failed[0]} failed, and with it the calls of rank {self._rank}: {text.decode()}"
        )

    def _gone(self, lengths: Sequence[int], own: bytes) -> dict[Trajectory, str]:
        """Who is lost, as told by the ranks that have something to tell."""
        told = [json.loads(self._said(rank, length, own)) for rank, length in enumerate(lengths) if length]
        # Of two who are lost together, the first is named.
        return {self._all[int(k)]: why for lost in reversed(told) for k, why in lost.items()}

    def _said(self, rank: int, length: int, own: bytes) -> bytes:
        """What a rank has to say, of that many bytes; `own` if it is this one."""
        content = bytearray(own) if rank == self._rank else bytearray(length)
        self._try(dist.broadcast, torch.frombuffer(content, dtype=torch.uint8), group=self._channel, group_src=rank)
        return bytes(content)

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        others = [torch.empty_like(mine) for _ in self._told]
        self._try(dist.all_gather, others, mine, group=self._channel)
        return others

    def _try(self, communicate: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return communicate(*args, **kwargs)
        except RuntimeError as error:
            self._over = True
            raise ConnectionError(
                f"rank {self._rank} lost the others: one has gone without a word, or took longer than the `timeout` of "
                f"couple.parallel.Ranks ({str(error).splitlines()[0]})."
            ) from error


def _linked(edges: Sequence[Edge]) -> Iterator[set[Trajectory]]:
    """Whose predictions meet in one pull: the two of an edge, and all that implicit weights solve for together."""
    apart = [edge for edge in edges if not weights.is_implicit(edge.weight)]
    joint = components(edge for edge in edges if weights.is_implicit(edge.weight))
    for group in [*((edge,) for edge in apart), *joint]:
        yield {trajectory for edge in group for trajectory in edge.trajectories}


def _plain(x0: Tensor) -> Tensor:
    # A tensor made in inference mode may not be given to an operation that could write to it; its clone may.
    return x0.clone() if x0.is_inference() else x0.detach()


def _written(x0: Tensor, level: Level) -> Tensor:
    shape = [*x0.shape, *[1] * (_AXES - x0.ndim)]
    return torch.tensor([1, x0.dtype == torch.float64, x0.ndim, *shape, *astuple(level)], dtype=torch.float64)


def _read(row: Sequence[float], device: torch.device) -> tuple[Tensor, Level]:
    shape = [int(length) for length in row[3 : 3 + int(row[2])]]
    dtype = torch.float64 if row[1] else torch.float32
    return torch.empty(shape, dtype=dtype, device=device), Level(*row[3 + _AXES :])
