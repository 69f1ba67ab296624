"""The nodes of a job together: whom the first one can hear, their clocks, and what goes through the network.

All-reduce bandwidth here is bytes of the tensor / seconds, of 16 MiB in fp32, over NCCL where there are GPUs. With
more than two nodes each link of the ring node 1, node 2, ..., node 1 is measured too, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from unibert.errors import MachineError
from unibert.preflight.look import Answer, node_name
from unibert.runtime import dist

MEET_SECONDS = 60.0
BYTES = 16 << 20
REPEATS = 4
PORT_SHIFT = 4001
"""The ranks will want their own port in a moment."""


def meet(say: Callable[[Answer], None]) -> None:
    """Meet the other nodes: say at first that the first one was reached, then clock, all-reduce and links.

    Raises:
        MachineError: they did not all come, or the network between them fails.
    """
    import torch
    import torch.distributed as group

    ranks = dist.ranks_from_environment()
    port = 20000 + (dist.master_port(ranks) + PORT_SHIFT) % 10000
    answer: Answer = {"node": node_name(), "stage": "meet", "reached": False}
    limit = timedelta(seconds=MEET_SECONDS)
    try:
        address = dist.master_address(ranks)
        make: Any = getattr(group, "TCPStore")  # noqa: B009  # torch's own stubs do not name it
        store = make(address, port, ranks.world, ranks.is_first, timeout=limit, wait_for_workers=False)
        say(answer | {"reached": True})
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        group.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=limit)
        group.barrier()
        say(answer | {"reached": True, "clock": time.time(), **_bandwidth(ranks.rank, ranks.world)})
        group.barrier()  # the first one serves the others until all are done
        group.destroy_process_group()
    except (RuntimeError, OSError) as error:
        raise MachineError(f"{node_name()}: the nodes did not meet: {str(error).splitlines()[0]}") from None


def _bandwidth(rank: int, world: int) -> Answer:
    """MB/s of an all-reduce over all, and of the two links of a ring."""
    import torch
    import torch.distributed as group

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    own, other = (torch.ones(BYTES // 4, device=device) for _ in range(2))

    def timed(work: Callable[[], Any]) -> float:
        work()
        group.barrier()
        began = time.perf_counter()
        for _ in range(REPEATS):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return REPEATS * BYTES / 1e6 / (time.perf_counter() - began)

    def exchange(with_rank: int) -> None:
        operations = [group.P2POp(group.isend, own, with_rank), group.P2POp(group.irecv, other, with_rank)]
        for request in group.batch_isend_irecv(operations):
            request.wait()

    everywhere, links = timed(lambda: group.all_reduce(own)), {}
    for first in range(world if world > 2 else 0):  # one link after the other: they may share a switch
        second = (first + 1) % world
        if rank in (first, second):
            partner = first + second - rank
            exchange(partner)
            began = time.perf_counter()
            for _ in range(REPEATS):
                exchange(partner)
            links[str(partner)] = REPEATS * BYTES / 1e6 / (time.perf_counter() - began)
        group.barrier()
    return {"all_reduce_mb_s": everywhere, "links_mb_s": list(links.values())}
