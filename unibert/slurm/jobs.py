"""The jobs of a run: their numbers, kept in its folder, and what SLURM says of them.

    runs/<name>/slurm/jobs.jsonl    {"job": 4711, "stage": "train", "log": "...-%j.out", "members": 0, "submitted": ...}

SLURM is asked by `squeue --json`, whose numbers and states have had two forms, and where that is not built in by
`scontrol -o show job`. A job that ended some minutes ago is unknown to both.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from unibert.errors import MachineError

ACTIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT", "SIGNALING")
SECONDS = 60


@dataclass(frozen=True)
class Submitted:
    """A job as it was submitted."""

    job: int
    stage: str
    log: str
    members: int
    """Of its array; 0 when it is none."""
    submitted: str

    def logs(self) -> list[Path]:
        """Its logs as they are there, the latest last."""
        pattern = Path(self.log.replace("%A", str(self.job)).replace("%j", str(self.job)).replace("%a", "*"))
        return sorted(pattern.parent.glob(pattern.name), key=lambda path: path.stat().st_mtime)


@dataclass(frozen=True)
class Known:
    """What SLURM says of a job, or of a member of an array."""

    job: int
    """What it was submitted as: of an array the number that its members share."""
    name: str
    """As scancel and squeue have it: 4711, or 4711_3."""
    state: str
    reason: str
    nodes: str
    restarts: int
    exit_code: int
    began: datetime | None

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


def record(folder: Path, job: Submitted) -> None:
    """Keep a job's number."""
    with (folder / "jobs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(job)) + "\n")


def recorded(folder: Path) -> list[Submitted]:
    """The run's jobs in the order of their submission."""
    path = folder / "jobs.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Submitted(**json.loads(line)) for line in lines]


def known(jobs: Sequence[Submitted]) -> list[Known]:
    """What SLURM knows of them.

    Raises:
        MachineError: SLURM does not answer.
    """
    wanted = [job.job for job in jobs]
    if not wanted:
        return []
    found = _ask_squeue()
    if found is None:
        found = [entry for number in wanted for entry in _ask_scontrol(number)]
    return sorted((entry for entry in found if entry.job in wanted), key=lambda entry: (entry.job, _member(entry)))


def call(*words: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    """(exit code, output, what it said on stderr) of one of SLURM's commands.

    Raises:
        MachineError: it is not there, or does not end.
    """
    try:
        done = subprocess.run(
            words,
            env=environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise MachineError(f"there is no {words[0]} here: call this on a node from which jobs are submitted") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{words[0]} has not answered for {SECONDS} s: is the SLURM controller up?") from None
    return done.returncode, done.stdout, done.stderr.strip()


def _ask_squeue() -> list[Known] | None:
    """All of the user's jobs; None where squeue has no JSON, or could not ask and yet leaves with 0."""
    code, text, _ = call("squeue", "--json", "--me", "--states=all")
    try:
        answer = json.loads(text)
        return None if code or answer.get("errors") else [_from_json(entry) for entry in answer["jobs"]]
    except (ValueError, KeyError, TypeError):
        return None


def _member(entry: Known) -> int:
    digits = re.search(r"_\[?(\d+)", entry.name)
    return int(digits[1]) if digits else 0


def _from_json(entry: dict[str, Any]) -> Known:
    array, member = _number(entry.get("array_job_id")), _number(entry.get("array_task_id"))
    waiting = entry.get("array_task_string") or ""
    job = array or int(entry["job_id"])
    name = f"{job}_[{waiting}]" if waiting else str(job) if not array or member is None else f"{job}_{member}"
    state, code, began = entry["job_state"], entry.get("exit_code"), _number(entry.get("start_time"))
    # A plain number is as wait() gives it.
    code = _number(code.get("return_code")) if isinstance(code, dict) else (code or 0) >> 8
    return Known(
        job=job,
        name=name,
        state=state[0] if isinstance(state, list) else state,
        reason=entry.get("state_reason") or "",
        nodes=entry.get("nodes") or "",
        restarts=_number(entry.get("restart_cnt")) or 0,
        exit_code=code or 0,
        began=datetime.fromtimestamp(began) if began else None,
    )


def _number(value: Any) -> int | None:
    """A number of SLURM's JSON: plain, or since 23.02 with whether it is set."""
    if isinstance(value, dict):
        return value.get("number") if value.get("set") else None
    return value


def _ask_scontrol(job: int) -> Iterator[Known]:
    code, text, said = call("scontrol", "-o", "show", "job", str(job))
    if code and "Invalid job id" not in said:
        raise MachineError(f"scontrol: {said}")
    for line in text.splitlines():
        facts = dict(re.findall(r"(\S+?)=(\S*)", line))
        if facts.get("JobState"):
            yield _from_facts(job, facts)


def _from_facts(job: int, facts: dict[str, str]) -> Known:
    member = facts.get("ArrayTaskId", "")
    name = str(job) if not member else f"{job}_{member}" if member.isdigit() else f"{job}_[{member}]"
    began = facts.get("StartTime", "")
    return Known(
        job=job,
        name=name,
        state=facts["JobState"],
        reason=facts.get("Reason", ""),
        nodes=facts.get("NodeList", "").replace("(null)", ""),
        restarts=int(facts.get("Restarts", "0")),
        exit_code=int(facts.get("ExitCode", "0:0").partition(":")[0]),
        began=datetime.fromisoformat(began) if began[:1].isdigit() else None,
    )
