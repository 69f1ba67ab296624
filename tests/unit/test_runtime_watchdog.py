"""The watchdog, on processes that hang in every way: each runs in a process of its own, which it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import environment
from unibert.errors import MachineError

TIMEOUT_SECONDS = 60  # of a process that should end within seconds; it is killed then

ALONE = """
import ctypes, os, signal, sys, time
from pathlib import Path
from unibert.runtime.stop import StopFlag
from unibert.runtime.watchdog import Watchdog

folder = Path(sys.argv[1])
log = folder / "rank_00000.log"
log.write_text("a line that stays\\n")
"""

PAIR = """
import os, signal, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from unibert.runtime.stop import StopFlag
from unibert.runtime.watchdog import Watchdog

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
log = folder / f"rank_{rank:05d}.log"

def sum_over_ranks():
    dist.all_reduce(torch.ones(1))

sum_over_ranks()
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-u", "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and what was printed; a process that hangs is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"no end after {TIMEOUT_SECONDS} s:\n{out}{err}")
    return process.returncode, out, err


def alone(code: str, folder: Path) -> tuple[int, str, str, str]:
    """Exit code, output, errors and log of a process."""
    return *finish(start(ALONE + code, folder)), (folder / "rank_00000.log").read_text()


def test_a_stalled_main_thread_ends_the_process_with_its_stack(tmp_path):
    code = """
def wait_for_ever():
    time.sleep(1000)

with Watchdog(0.4, log_file=log) as watchdog:
    watchdog.beat("step 7")
    wait_for_ever()
"""
    status, _, errors, log = alone(code, tmp_path)
    assert status == MachineError.exit_code
    assert log.startswith("a line that stays\n")
    assert "(step 7)" in log and "in wait_for_ever" in log
    assert "in _look" in log, "every thread, the watchdog's too"
    assert len(errors.splitlines()) == 1
    for word in ("train.stall_minutes", "step 7", str(tmp_path / "rank_00000.log")):
        assert word in errors


def test_a_closed_screen_and_a_full_disk_keep_nobody(tmp_path):
    code = """
os.close(2)
with Watchdog(0.4, log_file=Path("/dev/full")):
    time.sleep(1000)
"""
    status, _, _, _ = alone(code, tmp_path)
    assert status == MachineError.exit_code


def test_a_thread_that_keeps_the_interpreter_lock_is_ended_too(tmp_path):
    code = """
def page_of_a_dead_disk():
    ctypes.PyDLL(None).sleep(1000)  # PyDLL: the lock is not given away

with Watchdog(0.4, log_file=log):
    time.sleep(0.2)
    page_of_a_dead_disk()
"""
    status, _, _, log = alone(code, tmp_path)
    assert status == 1
    assert "in page_of_a_dead_disk" in log


def test_who_beats_is_spared_and_leaving_disarms(tmp_path):
    code = """
with Watchdog(0.5, log_file=log) as watchdog:
    for step in range(100):
        watchdog.beat(f"step {step}")
        time.sleep(0.01)
time.sleep(1.5)  # longer than two limits
os.kill(os.getpid(), signal.SIGTERM)
"""
    status, _, errors, log = alone(code, tmp_path)
    assert (status, errors, log) == (-signal.SIGTERM, "", "a line that stays\n")


def test_a_crash_leaves_its_stack_in_the_log(tmp_path):
    code = """
def read_nothing():
    ctypes.string_at(0)

with Watchdog(60, log_file=log):
    read_nothing()
"""
    status, _, _, log = alone(code, tmp_path)
    assert status == -signal.SIGSEGV
    assert "in read_nothing" in log


def test_sigterm_without_a_handler_leaves_the_stack_and_ends(tmp_path):
    code = """
with Watchdog(60, log_file=log):
    os.kill(os.getpid(), signal.SIGTERM)
"""
    status, _, _, log = alone(code, tmp_path)
    assert status == -signal.SIGTERM
    assert "<module>" in log


def test_the_stop_flag_is_given_back_in_order(tmp_path):
    code = """
with StopFlag(folder / "STOP") as flag:
    with Watchdog(60, log_file=log):
        os.kill(os.getpid(), signal.SIGTERM)
        print(flag.reason)
    flag.reason = None
    other = (folder / "other").open("wb")  # the descriptor is used again: no stack may land there
    os.kill(os.getpid(), signal.SIGTERM)
    print(flag.reason)
os.kill(os.getpid(), signal.SIGTERM)
"""
    status, out, _, log = alone(code, tmp_path)
    assert out.split() == ["SIGTERM", "SIGTERM"]
    assert status == -signal.SIGTERM
    assert log.count("most recent call first") == 2, "the main thread's and the watchdog's"
    assert (tmp_path / "other").read_bytes() == b""


@pytest.mark.dist
def test_a_stalled_rank_ends_all_with_the_stack_of_each(tmp_path):
    code = """
def sleep_on_rank_1():
    time.sleep(1000)

with Watchdog(3.0, log_file=log) as watchdog:
    if rank == 0:
        time.sleep(0.2)  # more than a look: rank 1 is the first to end, and waits for this one
    watchdog.beat("step 3")
    if rank == 1:
        sleep_on_rank_1()
    sum_over_ranks()
"""
    ranks = [start(PAIR + code, tmp_path, rank) for rank in range(2)]
    for rank, (process, name) in enumerate(zip(ranks, ("sum_over_ranks", "sleep_on_rank_1"), strict=True)):
        status, _, errors = finish(process)
        assert status == MachineError.exit_code, errors
        log = (tmp_path / f"rank_{rank:05d}.log").read_text()
        assert f"in {name}" in log and "(step 3)" in log


@pytest.mark.dist
def test_sigterm_in_a_collective_writes_the_stack_at_once_and_the_flag_follows(tmp_path):
    code = """
with StopFlag(folder / "STOP") as flag, Watchdog(60, log_file=log):
    while rank == 1 and not (folder / "go").exists():
        time.sleep(0.05)
    (folder / f"ready_{rank}").touch()
    sum_over_ranks()
print(flag.reason)
"""
    ranks = [start(PAIR + code, tmp_path, rank) for rank in range(2)]
    log, deadline = tmp_path / "rank_00000.log", time.monotonic() + TIMEOUT_SECONDS
    while not (tmp_path / "ready_0").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    while "in all_reduce" not in log.read_text() and time.monotonic() < deadline:
        os.kill(ranks[0].pid, signal.SIGTERM)  # again: the first may come just before the collective
        time.sleep(0.2)
    assert ranks[0].poll() is None, "it still waits: the stack is there before Python's handler could run"
    assert "in sum_over_ranks" in log.read_text()
    (tmp_path / "go").touch()
    results = [finish(process) for process in ranks]
    assert [status for status, _, _ in results] == [0, 0]
    assert [out.strip() for _, out, _ in results] == ["SIGTERM", "None"]


@pytest.mark.dist
def test_gloo_itself_tells_a_rank_that_its_peer_was_killed(tmp_path):
    code = """
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
with Watchdog(60, log_file=log):
    sum_over_ranks()
"""
    ranks = [start(PAIR + code, tmp_path, rank) for rank in range(2)]
    (status, _, errors), (killed, _, _) = (finish(process) for process in ranks)
    assert killed == -signal.SIGKILL
    assert status == 1
    assert "RuntimeError" in errors and "in sum_over_ranks" in errors
