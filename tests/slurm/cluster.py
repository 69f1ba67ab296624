"""A SLURM cluster of the tests' own (lab.sh), and jobs on it. Every wait has an end."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.runs import ROOT, environment

PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge", "ip": "iproute2"}
"""A program of each of Debian's packages. munge is not started, but the others' plugins are linked to it."""
PORTS = range(30000, 32700, 20)
"""Above the ports at which ranks meet, below those that the system gives away."""
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "DEADLINE", "OUT_OF_MEMORY")


@cache
def why_not() -> str | None:
    """Why no cluster can be started here, after an attempt to install what it needs; None when one can."""
    if os.geteuid() != 0:
        return "a SLURM cluster of our own needs root: each of its nodes has its own mounts and host name"
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=_path()) is None]
    if missing and shutil.which("apt-get") is None:
        return f"missing and not to be had by apt-get: {', '.join(missing)}"
    if missing:
        # RUNLEVEL=1: the packages' own services are not started.
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        for words in (["apt-get", "update"], install):
            done = subprocess.run(words, env=quiet, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return f"{' '.join(install)}: {done.stderr.strip()[-300:]}"
    if subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True).returncode:
        return "unshare is not allowed here (CAP_SYS_ADMIN), so nodes cannot have their own mounts and host name"
    return None


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """Nodes node1, node2, ... of two cores each, as a context.

    Partitions: `debug`, and `spot`, which it pre-empts after `grace` seconds. Job ids differ from lab to lab.
    """

    def __init__(self, folder: Path, *, nodes: int = 2, cables: bool = False, grace: int = 0) -> None:
        self.folder = folder
        self.environ = environment(PATH=_path(), SLURM_CONF=str(folder / "slurm.conf"))
        python = Path(environment()["PATH"].split(os.pathsep)[0])
        self.environ["PATH"] = f"{python}{os.pathsep}{_path()}"
        settings = {"LAB": folder, "NODES": nodes, "CABLES": int(cables), "GRACE": grace, "PORT": free_ports(nodes + 1)}
        self._lab = {**self.environ, **{name: str(value) for name, value in settings.items()}}

    def __enter__(self) -> Cluster:
        try:
            self.lab("start")
        except BaseException:
            self.lab("stop")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.lab("stop")

    def lab(self, *words: str) -> str:
        """What lab.sh does: start, stop, crash, boot, cut, join, enter."""
        script = str(Path(__file__).with_name("lab.sh"))
        # Not to a pipe: daemons would hold its other end, and nobody would see the end of it.
        with (self.folder.parent / f"{self.folder.name}.out").open("a+") as said:
            before = said.tell()
            done = subprocess.run(["bash", script, *words], env=self._lab, stdout=said, stderr=said, timeout=60)
            said.seek(before)
            output = said.read()
        assert done.returncode == 0, f"lab.sh {' '.join(words)}: {output}"
        return output

    def ask(
        self, *words: str, seconds: float = 30, expect: int | None = 0, checkout: Path = ROOT, **environ: str
    ) -> str:
        """What a SLURM command prints."""
        done = subprocess.run(
            words,
            env=self.environ | environ,
            cwd=checkout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        assert expect is None or done.returncode == expect, f"{' '.join(words)}: {done.returncode}: {done.stdout}"
        return done.stdout

    def submit(self, *words: str, log: Path | None = None, checkout: Path = ROOT, **environ: str) -> Job:
        """sbatch, from a checkout; `words` are its options, the script and the script's words."""
        output = [] if log is None else [f"--output={log}"]
        answer = self.ask("sbatch", "--parsable", *output, *words, checkout=checkout, **environ)
        number = int(answer.strip().splitlines()[-1].split(";")[0])
        return Job(self, number, log or checkout / f"slurm-{number}.out")


@dataclass(frozen=True)
class Job:
    """A job, or an array of them, whose facts are then those of the member that was listed first."""

    cluster: Cluster
    id: int
    log: Path

    def members(self) -> list[dict[str, str]]:
        """What `scontrol show job` knows, of each member of an array; one of a plain job."""
        lines = self.cluster.ask("scontrol", "--oneliner", "show", "job", str(self.id)).splitlines()
        return [dict(re.findall(r"(\w+(?:[/:]\w+)*)=(\S*)", line)) for line in lines if line.strip()]

    def facts(self) -> dict[str, str]:
        return self.members()[0]

    def state(self) -> str:
        return self.facts()["JobState"]

    def restarts(self) -> int:
        return int(self.facts()["Restarts"])

    def said(self) -> str:
        """The batch script's log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, *words: str) -> None:
        """scancel with these words, as in signal("--signal=USR1", "--batch")."""
        self.cluster.ask("scancel", *words, str(self.id))

    def wait(self, condition: Callable[[], object], *, seconds: float, what: str) -> float:
        """time.time() at which the condition held.

        Raises:
            AssertionError: it did not in time, or the job ended first; with the end of the job's log.
        """
        deadline, looked = time.monotonic() + seconds, 0.0
        while not condition():
            now = time.monotonic()
            over = False
            if now - looked > 2:  # the daemons have other things to do
                over, looked = self.over() and not condition(), now
            if over or now > deadline:
                raise AssertionError(f"{what}: not after {seconds} s; {self.facts()}\n{self.said()[-6000:]}")
            time.sleep(0.1)
        return time.time()

    def over(self) -> bool:
        """Whether every member has ended."""
        return all(facts["JobState"] in OVER for facts in self.members())

    def finish(self, *, seconds: float, expect: str = "COMPLETED", code: int = 0) -> str:
        """Wait for the end, demand its state and exit code, and return the log."""
        self.wait(self.over, seconds=seconds, what="the end of the job")
        found = {(facts["JobState"], facts["ExitCode"]) for facts in self.members()}
        assert found == {(expect, f"{code}:0")}, f"{found}\n{self.said()[-6000:]}"
        return self.said()


def free_ports(count: int) -> int:
    """The first of so many free ports that follow each other."""
    for first in random.sample(PORTS, len(PORTS)):
        if _free(range(first, first + count)):
            return first
    raise AssertionError("no free ports for a cluster")


def _free(ports: Iterable[int]) -> bool:
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True
