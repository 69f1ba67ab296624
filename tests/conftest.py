"""What every test shares: a quiet offline environment, and skipping what this machine cannot run."""

import os
import socket
from functools import cache

import pytest

# Before torch, matplotlib or a tokenizer is imported. Two cores are shared by every process a test starts.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)

LOCAL = ("127.", "::1", "localhost")


@cache
def gpu_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not gpu_is_there():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests marked slow may leave this machine (in this process; launchers' own traffic is local)."""
    if request.node.get_closest_marker("slow"):
        return
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and not str(host).startswith(LOCAL) and host != socket.gethostname():
            raise AssertionError(f"a test that is not marked slow wants to reach {host}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)
