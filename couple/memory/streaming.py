"""A network whose weights come to the device block by block while it runs: diffusers' group offload, shared.

diffusers brings a group of layers before it runs and takes it away after. `Group` adds what coupling needs: forwards
that run side by side (`together`) all use a group before it leaves, so it comes once for all of them; and the layers
that need not move are left alone. Also weights stored in eight bits, which diffusers casts layer by layer but does
not cast back.

On an accelerator a second stream copies the next group while one computes. Events order the two, and the host runs
ahead: a layer waits until its weights have arrived, and a copy until all that was asked for before it is computed. A
copy is asked for just before the group that it is to run beside. So it waits for everyone who used the group before
that one, whose place it takes, and for nobody else; two groups are on the device at once, at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading, group_offloading, layerwise_casting
from torch import Tensor, nn

from couple.engine.together import pause

_OFFLOAD = group_offloading._GROUP_OFFLOADING
_TRACKER = group_offloading._LAYER_EXECUTION_TRACKER
_TRACER = group_offloading._LAZY_PREFETCH_GROUP_OFFLOADING
_CASTING = layerwise_casting._LAYERWISE_CASTING_HOOK


class Group(group_offloading.ModuleGroup):
    """Layers that come and leave together, once for all forwards that run side by side.

    Attributes:
        on: whether the weights are on the device.
        stays: whether somebody else looks after them.
        arrived: called with the number of bytes brought.
        ready: the event after the last copy; None without streams.
    """

    on: bool
    stays: bool
    arrived: Callable[[int], None]
    ready: Any = None

    @classmethod
    def take(cls, group: Any, arrived: Callable[[int], None]) -> Group:
        """Make diffusers' group one of these; it has been offloaded."""
        group.__class__ = cls
        group.on = group.stays = False
        group.arrived = arrived
        return group

    @property
    def tensors(self) -> list[Tensor]:
        """Its parameters and buffers, each once."""
        own = (tensors(module) for module in self.modules)
        return list({id(t): t for t in itertools.chain(*own, self.parameters, self.buffers)}.values())

    @torch.compiler.disable()
    def onload_(self) -> None:
        """Bring the weights, unless a forward beside this one has."""
        if self.on or self.stays:
            return
        self.on = True  # even if it fails midway: then `release` takes away what has come
        super().onload_()
        self.arrived(size(self.tensors))

    def _onload_from_memory(self) -> None:
        """Copy, on a second stream where there is one; diffusers lets the host wait for it, here events do."""
        if self.stream is None:
            super()._onload_from_memory()
            return
        self.stream.wait_stream(self._computing())
        # Recorded, memory is not used again before the host knows that it may be, and the host is ahead: all weights
        # would be there at once. The line above lets it be used again sooner. The switch is read once more when a group
        # leaves, where off would let the host wait.
        self.record_stream = False
        try:
            with self._torch_accelerator_module.stream(self.stream), self._pinned_memory_tensors() as pinned:
                self._process_tensors_from_modules(pinned)
        finally:
            self.record_stream = True
        self.ready = self.stream.record_event()

    @torch.compiler.disable()
    def wait(self) -> None:
        """Let what is computed from now on wait for the weights; the host goes on."""
        if self.ready is not None:
            self._computing().wait_event(self.ready)

    def _computing(self) -> Any:
        return self._torch_accelerator_module.current_stream(self.onload_device)

    @torch.compiler.disable()
    def offload_(self) -> None:
        """Let the others come here, then take the weights away, unless one of them has."""
        if not self.stays:
            pause()
            self.release()

    def release(self) -> None:
        """Take the weights away now."""
        if self.on:
            super().offload_()
            self.on = False


class Stream:
    """A network under group offload.

    Args:
        network: whose weights are to be streamed; where they are now, they are put back by `go_home`.
        device: where it runs.
        leaves: stream single layers instead of whole blocks: less memory, more waiting.
        keep: how many bytes of weights may stay on the device between forwards.
        arrived: called with the number of bytes of each group brought.

    Attributes:
        kept: the tensors that are not streamed. They must be on the device when the network runs.
        streamed: the bytes that a forward brings.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, leaves: bool, keep: int, arrived: Callable[[int], None]
    ) -> None:
        """Hook the layers; their weights go to the CPU, into pinned memory where there is an accelerator."""
        self._network = network
        self._homes = [(tensor, tensor.device) for tensor in tensors(network)]
        self._bare = bare(network)
        streams = device.type in ("cuda", "xpu")  # where diffusers has any
        # The stream is made on the current device.
        with torch.accelerator.device_index(device.index):
            apply_group_offloading(
                network,
                onload_device=device,
                offload_type="leaf_level" if leaves else "block_level",
                num_blocks_per_group=None if leaves else 1,
                use_stream=streams,
                record_stream=streams,
            )
        _trace(network)
        names = {id(module): name for name, module in network.named_modules()}
        hooked = [(m, hook) for m in network.modules() if (hook := _hook(m, _OFFLOAD)) is not None]
        for _, hook in hooked:
            # The registry calls what it finds here, not the hook's method.
            hook.fn_ref.pre_forward = partial(_arrive, hook, hook.fn_ref.pre_forward)
        self._groups = list({id(hook.group): Group.take(hook.group, arrived) for _, hook in hooked}.values())
        self._tracer = _hook(network, _TRACER)
        self.kept: list[Tensor] = []
        if not leaves:
            # What belongs to no block is needed from the first layer to the last.
            self._keep(group for group in self._groups if group.offload_leader is network)
        total = size(itertools.chain(*(group.tensors for group in self._groups)))
        share = max(0.0, min(1.0, (keep - size(self.kept)) / max(1, total - size(self.kept))))
        passed = stayed = 0
        for module, hook in hooked:
            group = hook.group
            if group.stays or module is not group.offload_leader or not group.modules:
                continue
            passed += size(group.tensors)
            # Those that stay are spread evenly, so that each of the others has time to come.
            if stayed + size(group.tensors) <= share * passed:
                stayed += size(group.tensors)
                self._keep([group])
                for member in group.modules:
                    self._unhook(member, names[id(member)])
        self._groups = [group for group in self._groups if not group.stays]
        self.streamed = sum(size(group.tensors) for group in self._groups)

    def _keep(self, groups: Iterable[Group]) -> None:
        for group in groups:
            group.stays = True
            self.kept += group.tensors

    def _unhook(self, module: nn.Module, name: str) -> None:
        for hook in (_OFFLOAD, _TRACKER):
            HookRegistry.check_if_exists_or_initialize(module).remove_hook(hook, recurse=False)
        if self._tracer is not None:
            self._tracer._layer_execution_tracker_module_names.discard(name)

    @property
    def traced(self) -> bool:
        """Whether the order of the layers is known; until then one forward runs at a time."""
        return _hook(self._network, _TRACER) is None and not _compiled(self._network)

    def settle(self) -> None:
        """Take away what a forward that failed has left on the device."""
        for group in self._groups:
            group.release()

    def close(self) -> None:
        """Leave the network as it was, but its weights on the CPU."""
        self.settle()
        for name in (_OFFLOAD, _TRACKER, _TRACER):
            HookRegistry.check_if_exists_or_initialize(self._network).remove_hook(name, recurse=True)
        self._bare()

    def go_home(self) -> None:
        """Put the weights where they were."""
        for tensor, home in self._homes:
            if tensor.device != home:
                tensor.data = tensor.data.to(home)


@contextmanager
def in_eight_bits(network: Any) -> Iterator[None]:
    """Store the weights of a network as float8 (e4m3) and compute as before; the exact ones wait on the CPU."""
    exact = [(tensor, tensor.device, tensor.data.cpu()) for tensor in tensors(network)]
    undress = bare(network)
    dtype = next(t.dtype for t, _, _ in exact if t.is_floating_point())
    try:
        if hasattr(network, "enable_layerwise_casting"):
            network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        else:
            layerwise_casting.apply_layerwise_casting(network, torch.float8_e4m3fn, dtype)
        yield
    finally:
        for module in network.modules():
            hook = _hook(module, _CASTING)
            if hook is not None:
                # diffusers refuses, since the cast loses bits; these are put back from the exact weights.
                hook.deinitalize_hook = lambda module: module
                HookRegistry.check_if_exists_or_initialize(module).remove_hook(_CASTING, recurse=False)
        undress()
        for tensor, home, data in exact:
            tensor.data = data.to(home)


def tensors(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module, each once."""
    return list({id(t): t for t in itertools.chain(module.parameters(), module.buffers())}.values())


def size(these: Iterable[Tensor]) -> int:
    """Return the bytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in these)


def floor(network: nn.Module, leaves: bool) -> int:
    """Return the bytes on the device at once, at most, when nothing stays: two groups, and what is in no block."""
    if leaves:
        layers = [m for m in network.modules() if not any(m.children())]
        return 2 * max((size(tensors(layer)) for layer in layers), default=0)
    sizes = [size(tensors(block)) for block in blocks(network)]
    return size(tensors(network)) - sum(sizes) + 2 * max(sizes, default=0)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return what diffusers streams as blocks: the members of the network's lists."""
    return [b for c in network.children() if isinstance(c, (nn.ModuleList, nn.Sequential)) for b in c]


def bare(network: nn.Module) -> Callable[[], None]:
    """Remember which layers had neither hooks nor a forward of their own; return what makes them so again."""
    names = ("_diffusers_hook", "forward")
    before = [(module, [name for name in names if name not in vars(module)]) for module in network.modules()]

    def again() -> None:
        for module, missing in before:
            for name in missing:
                vars(module).pop(name, None)
        registry: Any = getattr(network, "_diffusers_hook", None)
        if registry is not None:
            registry.invalidate_child_registries_cache()

    return again


def _hook(module: nn.Module, name: str) -> Any:
    registry = getattr(module, "_diffusers_hook", None)
    return None if registry is None else registry.get_hook(name)


def _arrive(hook: Any, pre_forward: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    given = pre_forward(module, *args, **kwargs)
    hook.group.wait()
    return given


def _trace(network: nn.Module) -> None:
    """Find the order of the layers also where every one is in a block: diffusers then looks for none."""
    hooks = [hook for module in network.modules() if (hook := _hook(module, _OFFLOAD)) is not None]
    if _hook(network, _TRACER) is None and hooks and hooks[0].config.stream is not None:
        config = hooks[0].config
        root = group_offloading.ModuleGroup([], config.offload_device, config.onload_device, network, network)
        group_offloading._apply_lazy_group_offloading_hook(network, root, config=config)


def _compiled(network: nn.Module) -> bool:
    # A greenlet must not be paused inside a compiled frame.
    return any(module._compiled_call_impl is not None for module in network.modules())
