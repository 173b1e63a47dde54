"""Several processes in one group, each running one function: what `torchrun` gives, for tests.

The functions live here or in modules that can be imported by name; they are called as `function(rank, **arguments)` with
a gloo group over all processes in place, and return tensors, numbers or texts, or raise.
"""

import multiprocessing
import os
import tempfile
import traceback

import torch
import torch.distributed as dist

#: Imported once, by a server from which the processes are forked.
PRELOADED = ["tests.tiny", "couple.sampling", "couple.parallel"]
LONGEST = 180


def together(function, size=2, **arguments):
    """Return what the function returned on each rank, or the error that it raised there; None for a lost process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        ends, processes = [], []
        for rank in range(size):
            end, other = context.Pipe(duplex=False)
            process = context.Process(target=_member, args=(function, rank, size, folder, other, arguments))
            process.start()
            other.close()
            ends.append(end)
            processes.append(process)
        try:
            return [_received(end) for end in ends]
        finally:
            for process in processes:
                process.join(5)
                process.kill()


def _received(end):
    if not end.poll(LONGEST):
        raise TimeoutError("a process hangs")
    try:
        value = end.recv()
    except EOFError:
        return None
    return value


def _member(function, rank, size, folder, end, arguments):
    os.environ.update(HF_HUB_OFFLINE="1", GLOO_SOCKET_IFNAME="lo", RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK="0")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    try:
        value = function(rank, **arguments)
    except Exception as error:
        error.add_note(traceback.format_exc())
        value = type(error)(*map(str, error.args))
    # By value: shared memory would go with the process.
    end.send(_by_value(value))
    end.close()
    if not isinstance(value, Exception):
        dist.barrier()


def _by_value(value):
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _by_value(item) for key, item in value.items()}
    return [_by_value(item) for item in value] if isinstance(value, list) else value
