"""`unibert slurm` against stand-ins for SLURM's commands: what it renders, submits, reads and asks for."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runs import ROOT
from unibert.cli import main
from unibert.slurm import jobs

RECIPE = """
name = "small"
languages = ["en", "de"]
[train]
global_batch_sequences = 32
micro_batch_sequences = 8
steps = 40
[teacher]
path = "teacher"
[objectives.masked_lm]
"""
SBATCH = """
echo "$* | ${SBATCH_PARTITION:-} ${SBATCH_ACCOUNT:-}" >> sbatch.log
if [ -e refuse ]; then echo "sbatch: error: Requested node configuration is not available" >&2; exit 1; fi
if [ "$1" = --test-only ]; then echo "sbatch: Job 1 to start at noon" >&2; exit 0; fi
count=$(($(cat count 2>/dev/null || echo 100) + 1)); echo $count > count; echo "$count;cluster"
"""


class Checkout:
    """A folder with launch_slurm/, a recipe, and a PATH on which SLURM's commands are ours."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        shutil.copytree(ROOT / "launch_slurm", folder / "launch_slurm")
        (folder / "small.toml").write_text(RECIPE)
        self.command("sbatch", SBATCH)
        self.command("squeue", "cat squeue.json")
        self.command("scancel", 'echo "$*" >> scancel.log')
        self.command("sinfo", "true")
        self.queue([])
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        for name in [name for name in os.environ if name.startswith(("SBATCH_", "SLURM_"))]:
            monkeypatch.delenv(name)

    def command(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def queue(self, entries: list[dict]) -> None:
        (self.folder / "squeue.json").write_text(json.dumps({"jobs": entries}))

    def unibert(self, line: str, *, expect: int = 0) -> None:
        try:
            main(["slurm", *shlex.split(line)])
            code = 0
        except SystemExit as left:
            code = left.code
        assert code == expect

    def said(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def script(self, stage: str = "train") -> list[str]:
        return (self.folder / f"runs/small/slurm/{stage}.sbatch").read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    return Checkout(tmp_path, monkeypatch)


def entry(job: int, state: str, **more: object) -> dict:
    """As SLURM 22.05 has it."""
    plain = {"job_id": job, "array_job_id": 0, "array_task_id": None, "array_task_string": "", "job_state": state}
    return plain | {"state_reason": "None", "nodes": "", "restart_cnt": 0, "exit_code": 0, "start_time": 0} | more


def newer(job: int, state: str, *, member: int | None = None, waiting: str = "", code: int = 0) -> dict:
    """The same since 23.11."""

    def number(value: int | None) -> dict:
        return {"set": value is not None, "infinite": False, "number": value or 0}

    return {
        "job_id": job + (member or 0),
        "array_job_id": number(job if member is not None or waiting else 0),
        "array_task_id": number(member),
        "array_task_string": waiting,
        "job_state": [state],
        "state_reason": "JobArrayTaskLimit",
        "nodes": "node[1-2]",
        "restart_cnt": 2,
        "exit_code": {"status": ["SUCCESS"], "return_code": number(code)},
        "start_time": number(1700000000),
    }


# --- the script -------------------------------------------------------------------------------------------------------


def test_the_script_is_the_readable_file_with_its_lines_filled_in(checkout: Checkout, capsys):
    line = (
        "small.toml --nodes 2 --tasks-per-node 2 --gpus-per-node 2 --time 1:00:00 --qos 'night shift' "
        "--sbatch mem=8G exclude=node[7-8] exclusive --train.steps 9"
    )
    checkout.unibert(line)
    out, err = capsys.readouterr()
    script = checkout.script()
    assert out.splitlines() == script, "what is printed is what would be submitted"
    assert subprocess.run(["bash", "-n"], input=out, text=True, capture_output=True).stderr == ""
    file = (ROOT / "launch_slurm/train.sbatch").read_text().splitlines()
    named = [row for row in script if row.startswith("#SBATCH")]
    for wanted in (
        "--nodes=2",
        "--ntasks-per-node=2",
        "--gpus-per-node=2",
        "--time=1:00:00",
        '--qos="night shift"',
        "--mem=8G",
    ):
        assert f"#SBATCH {wanted}" in named
    assert {"#SBATCH --exclude=node[7-8]", "#SBATCH --exclusive"} <= set(named)
    assert len({row.split("=")[0] for row in named}) == len(named), "an option is there twice"
    body = [row for row in file if row and not row.startswith("#SBATCH")]
    assert [row for row in script if row in body] == body
    assert "set -- small.toml --train.steps 9" in script
    assert "#SBATCH --signal=B:USR1@300" in script, "what nobody asked to change stays"
    assert "Job 1 to start at noon" in err and "not submitted" in err


def test_words_reach_the_script_as_they_were_typed(checkout: Checkout):
    checkout.unibert("""small.toml --runs_folder "John's runs" --submit""")
    script = (checkout.folder / "John's runs/small/slurm/train.sbatch").read_text().splitlines()
    assert '#SBATCH --output="John\'s runs/small/slurm/train-%j.out"' in script
    [line] = [row for row in script if row.startswith("set -- ")]
    words = subprocess.run(["bash", "-c", f'{line}; printf "%s\\n" "$@"'], text=True, capture_output=True).stdout
    assert words.splitlines() == ["small.toml", "--runs_folder", "John's runs"]


def test_what_was_asked_for_wins_over_env_sh(checkout: Checkout, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "old")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    checkout.unibert("small.toml --partition new")
    assert checkout.said("sbatch.log")[-1].endswith("|  mine"), "sbatch's environment wins over a script's lines"
    checkout.unibert("small.toml")
    assert checkout.said("sbatch.log")[-1].endswith("| old mine")


def test_a_chain_is_an_array_that_is_never_requeued(checkout: Checkout):
    checkout.unibert("small.toml --chain 5 --submit --stages train,evaluate")
    script = checkout.script()
    assert "#SBATCH --array=1-5%1" in script and "#SBATCH --no-requeue" in script
    assert "#SBATCH --requeue" not in script and "export UNIBERT_CHAIN=1" in script
    assert "#SBATCH --output=runs/small/slurm/train-%A_%a.out" in script
    last = checkout.said("sbatch.log")[-1]
    assert "--dependency=afterok:101_5 " in last, "those before the last one leave with 75"
    assert "UNIBERT_CHAIN" not in "\n".join(checkout.script("evaluate"))


def test_a_container_sees_checkout_data_and_runs(checkout: Checkout, tmp_path: Path):
    checkout.unibert("small.toml --container team/image+1 --mounts /scratch:/scratch --data.folder /big/data")
    [line] = [row for row in checkout.script() if "UNIBERT_SRUN=" in row]
    said = subprocess.run(
        ["bash", "-c", f'{line}; printf "%s\\n" $UNIBERT_SRUN'], text=True, capture_output=True
    ).stdout
    assert said.splitlines() == [
        "--container-image=team/image+1",
        f"--container-mounts={tmp_path}:{tmp_path},/big/data:/big/data,/scratch:/scratch",
        f"--container-workdir={tmp_path}",
        "--no-container-mount-home",
    ]
    for stage in ("data", "evaluate"):
        checkout.unibert(f"small.toml --container team/image+1 --stages {stage}")
        assert any("UNIBERT_SRUN=" in row for row in checkout.script(stage))


# --- submitting -------------------------------------------------------------------------------------------------------


def test_stages_wait_for_each_other(checkout: Checkout):
    checkout.unibert("small.toml --stages data,train,evaluate,export --members 3 --gpus-per-node 2 --after 7 --submit")
    tests, submitted = checkout.said("sbatch.log")[:4], checkout.said("sbatch.log")[4:]
    assert all("--test-only" in row for row in tests), "all are checked before the first is submitted"
    assert [row.partition(" |")[0].split() for row in submitted] == [
        [
            "--parsable",
            f"--dependency=afterok:{before}",
            "--kill-on-invalid-dep=yes",
            f"runs/small/slurm/{stage}.sbatch",
        ]
        for before, stage in ((7, "data"), (101, "train"), (102, "evaluate"), (103, "export"))
    ]
    assert "#SBATCH --array=0-2" in checkout.script("data")
    gpus = {stage: [row for row in checkout.script(stage) if "--gpus" in row and row.startswith("#SBATCH")] for stage in
            ("data", "train", "evaluate", "export")}  # fmt: skip
    assert gpus == {
        "data": [], "train": ["#SBATCH --gpus-per-node=2"], "evaluate": ["#SBATCH --gpus-per-node=1"], "export": [],
    }  # fmt: skip
    assert "set -- evaluate small.toml" in checkout.script("evaluate")
    assert "set -- export runs/small" in checkout.script("export")
    assert [(job.job, job.stage) for job in jobs.recorded(checkout.folder / "runs/small/slurm")] == [
        (101, "data"), (102, "train"), (103, "evaluate"), (104, "export"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("small.toml --nodes 3", 2, "not a multiple"),
        ("small.toml --train.stepz 3", 2, "train.stepz"),
        ("small.toml --stages train,bake", 2, "bake"),
        ("small.toml --nodes 0", 2, "--nodes 0"),
        ("small.toml --tasks-per-node 4 --gpus-per-node 2", 2, "a GPU of its own"),
        ("small.toml --container 'my image'", 2, "spaces"),
        ("look small.toml", 2, "status, tail, stop, cancel"),
        ("stop small.toml", 2, "no training of small"),
        ("cancel small.toml", 2, "no job of small"),
        ("tail small.toml", 3, "no log yet"),
        ("--nodes 2", 2, "say RECIPE"),
    ],
)
def test_mistakes_are_named_and_nothing_is_submitted(checkout: Checkout, capsys, line: str, code: int, words: str):
    checkout.unibert(f"{line} --submit", expect=code)
    assert words in capsys.readouterr().err
    assert not checkout.said("sbatch.log")


def test_what_the_cluster_refuses_is_said(checkout: Checkout, capsys, monkeypatch):
    (checkout.folder / "refuse").touch()
    checkout.unibert("small.toml --nodes 4", expect=6)
    assert "Requested node configuration is not available" in capsys.readouterr().err
    checkout.command("sinfo", "exit 1")
    checkout.unibert("small.toml --nodes 4")
    assert "no cluster answers" in capsys.readouterr().err
    (checkout.bin / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(checkout.bin))
    checkout.unibert("small.toml --nodes 4")
    checkout.unibert("small.toml --nodes 4 --submit", expect=6)
    assert "no sbatch here" in capsys.readouterr().err


def test_a_run_is_not_trained_twice_at_once(checkout: Checkout, capsys):
    checkout.unibert("small.toml --submit")
    checkout.queue([entry(101, "RUNNING")])
    checkout.unibert("small.toml --submit", expect=2)
    assert "job 101 (train of this run) is RUNNING" in capsys.readouterr().err
    checkout.unibert("tensorboard small.toml --submit")
    checkout.queue([entry(101, "COMPLETED")])
    checkout.unibert("small.toml --submit")
    assert [job.stage for job in jobs.recorded(checkout.folder / "runs/small/slurm")] == [
        "train",
        "tensorboard",
        "train",
    ]


def test_it_is_called_from_the_checkout(checkout: Checkout, capsys):
    shutil.rmtree(checkout.folder / "launch_slurm")
    checkout.unibert("small.toml", expect=6)
    assert "from the checkout" in capsys.readouterr().err


# --- asking after it --------------------------------------------------------------------------------------------------


def run_folder(checkout: Checkout) -> Path:
    run = checkout.folder / "runs/small"
    saved = run / "checkpoints/step_00000020/COMPLETE"
    saved.parent.mkdir(parents=True)
    saved.touch()
    rows = [{"step": step, "unix_seconds": 1.0, "loss/total": 9 - step / 10} for step in (20, 22)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_status_says_how_far_it_is_and_what_slurm_says(checkout: Checkout, capsys):
    run_folder(checkout)
    checkout.unibert("small.toml --stages train,evaluate --submit")
    running = entry(101, "RUNNING", nodes="node[1-2]", restart_cnt=2, start_time=1700000000)
    waiting = entry(102, "PENDING", state_reason="Dependency")
    checkout.queue([waiting, running, entry(7, "RUNNING", nodes="another's")])
    capsys.readouterr()
    checkout.unibert("status small.toml")
    said = capsys.readouterr().out
    assert "step 22 of 40 (55.0 %)" in said and "loss/total 6.8" in said
    assert "saved     runs/small/checkpoints/step_00000020" in said
    assert "101 train: RUNNING on node[1-2] since 2023-11-1" in said and "after 2 restarts" in said
    assert "102 evaluate: PENDING (Dependency)" in said and "another's" not in said


def test_both_forms_of_squeues_json_are_read(checkout: Checkout):
    mine = [jobs.Submitted(50, "train", "x", 3, "now")]
    checkout.queue(
        [newer(50, "PENDING", waiting="3"), newer(50, "FAILED", member=1, code=75), newer(50, "RUNNING", member=2)]
    )
    new = jobs.known(mine)
    assert [(job.name, job.state, job.exit_code, job.restarts, job.active) for job in new] == [
        ("50_1", "FAILED", 75, 2, False), ("50_2", "RUNNING", 0, 2, True), ("50_[3]", "PENDING", 0, 2, True),
    ]  # fmt: skip
    old = [entry(50, "PENDING", array_job_id=50, array_task_string="3"),
           entry(51, "FAILED", array_job_id=50, array_task_id=1, exit_code=75 << 8),
           entry(52, "RUNNING", array_job_id=50, array_task_id=2)]  # fmt: skip
    checkout.queue(old)
    assert [(job.name, job.state, job.exit_code) for job in jobs.known(mine)] == [
        (job.name, job.state, job.exit_code) for job in new
    ]


def test_without_json_scontrol_is_asked(checkout: Checkout):
    checkout.command("squeue", "echo 'squeue: unrecognized option --json' >&2; exit 1")
    checkout.command(
        "scontrol",
        r"""
[ "$4" = 50 ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
echo "JobId=52 ArrayJobId=50 ArrayTaskId=2 JobState=RUNNING Reason=None Restarts=1 ExitCode=0:0" \
     "StartTime=2026-01-02T03:04:05 NodeList=node1 Command=(null)"
echo "JobId=50 ArrayJobId=50 ArrayTaskId=3%1 JobState=PENDING Reason=JobArrayTaskLimit StartTime=Unknown NodeList="
""",
    )
    mine = [jobs.Submitted(number, "train", "x", 3, "now") for number in (50, 60)]
    running, waiting = jobs.known(mine)
    assert (running.name, running.state, running.nodes, running.restarts) == ("50_2", "RUNNING", "node1", 1)
    assert (waiting.name, waiting.state, waiting.began) == ("50_[3%1]", "PENDING", None)


def test_a_cluster_that_does_not_answer_hides_nothing_of_the_run(checkout: Checkout, capsys):
    """squeue leaves with 0 when it could not ask."""
    run_folder(checkout)
    checkout.unibert("small.toml --submit")
    (checkout.folder / "squeue.json").write_text('{"errors": [{"source": "slurm_load_jobs"}], "jobs": []}')
    checkout.command("scontrol", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    capsys.readouterr()
    checkout.unibert("status small.toml", expect=6)
    said = capsys.readouterr()
    assert "step 22 of 40" in said.out and "Unable to contact" in said.err


def test_stop_takes_the_rest_of_a_chain_out_before_it_asks_the_run_to_leave(checkout: Checkout, capsys):
    run = run_folder(checkout)
    checkout.unibert("small.toml --chain 3 --submit")
    running = entry(102, "RUNNING", array_job_id=101, array_task_id=2)
    checkout.queue([entry(101, "PENDING", array_job_id=101, array_task_string="3"), running])
    checkout.command("scancel", f'test ! -e {run}/STOP && echo "$*" >> scancel.log')
    checkout.unibert("stop small.toml")
    assert checkout.said("scancel.log") == ["--state=PENDING 101"]
    assert (run / "STOP").exists()
    checkout.unibert("status small.toml")
    assert "stopping" in capsys.readouterr().out


def test_cancel_ends_what_is_left_of_the_run(checkout: Checkout):
    checkout.unibert("small.toml --stages train,evaluate,export --submit")
    checkout.queue([entry(101, "COMPLETED"), entry(102, "RUNNING"), entry(103, "PENDING"), entry(9, "RUNNING")])
    checkout.unibert("cancel small.toml")
    assert checkout.said("scancel.log") == ["102 103"]


def test_tail_shows_the_newest_log_or_a_ranks(checkout: Checkout, monkeypatch):
    checkout.unibert("small.toml --chain 2 --submit")
    folder = checkout.folder / "runs/small"
    for number, name in enumerate(("slurm/train-101_1.out", "slurm/train-101_2.out", "logs/slurm_101/rank_00003.log")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} {line}\n" for line in range(5)))
        os.utime(path, (number, number))

    def tail(line: str) -> str:
        with pytest.raises(StopIteration) as called:
            checkout.unibert(f"tail small.toml --lines 2 {line}")
        return subprocess.run(called.value.value, text=True, capture_output=True).stdout

    def called_with(_: str, words: list[str]) -> None:
        raise StopIteration(words)

    monkeypatch.setattr(os, "execvp", called_with)
    assert tail("") == "slurm/train-101_2.out 3\nslurm/train-101_2.out 4\n"
    assert tail("--rank 3") == "logs/slurm_101/rank_00003.log 3\nlogs/slurm_101/rank_00003.log 4\n"


def test_the_tunnel_is_said_while_tensorboard_runs(checkout: Checkout, capsys):
    checkout.unibert("tensorboard small.toml --submit")
    assert "set -- runs/small" in checkout.script("tensorboard")
    log = checkout.folder / "runs/small/slurm/tensorboard-101.out"
    log.write_text("on your own machine:\nssh -N -L 6006:node2:30101 me@login\n")
    for state, shown in (("RUNNING", True), ("COMPLETED", False)):
        checkout.queue([entry(101, state)])
        capsys.readouterr()
        checkout.unibert("status small.toml")
        assert ("tunnel    ssh -N -L 6006:node2:30101 me@login" in capsys.readouterr().out) == shown
