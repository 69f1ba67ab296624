"""doctor.py: what it finds on this machine and on broken ones."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from unibert import doctor
from unibert.doctor import Finding, Report, stale_locks


def found(check, *given) -> dict[str, Finding]:
    return {finding.what: finding for finding in check(*given)}


def test_this_machine_can_run_and_every_check_looked():
    report = doctor.run()
    assert report.exit_code == 0
    assert not [finding for finding in report.findings if finding.found.startswith("could not look")]
    seen = {finding.what for finding in report.findings}
    assert {"python", "torch", "deepspeed", "DeepSpeed build lock", "apex", "mpirun", "memory", "disk here"} <= seen


def test_importing_it_imports_no_torch():
    code = "import sys, unibert.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_lines_are_whole_and_the_exit_code_is_6_when_something_is_missing():
    out = io.StringIO()
    report = Report((Finding("ok", "a", "fine"), Finding("missing", "b [x]", "not " * 30, "mend it")))
    report.show(Console(file=out, width=20))
    lines = out.getvalue().splitlines()
    assert lines[0] == "ok      a: fine" and lines[1].endswith("-> mend it") and len(lines) == 3
    assert report.exit_code == 6 and "1 ok, 1 missing" in lines[2]
    assert Report((Finding("warning", "a", "hm"), Finding("absent", "b", "no"))).exit_code == 0


def test_a_terminal_gets_a_table():
    out = io.StringIO()
    Report((Finding("broken", "a", "lost [y]", "mend"),)).show(Console(file=out, force_terminal=True, width=100))
    assert "what to do" in out.getvalue() and "lost [y]" in out.getvalue()


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def _bad_check():
        raise OSError("no /proc")

    monkeypatch.setattr(doctor, "CHECKS", (_bad_check,))
    (finding,) = doctor.run().findings
    assert (finding.status, finding.what) == ("warning", "bad check") and "no /proc" in finding.found


def test_missing_package(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("rich", "no-such-package-here"))
    findings = found(doctor._packages)
    assert findings["rich"].status == "ok"
    assert findings["no-such-package-here"].status == "missing" and findings["no-such-package-here"].mend


def test_pinned_versions_that_differ_are_named(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["rich>=1", "numpy==0.1", 'never==1; extra == "dev"'])
    finding = found(doctor._packages)["requirements"]
    assert finding.status == "warning" and "numpy==0.1" in finding.found
    assert "never" not in finding.found and "rich" not in finding.found


def test_stale_locks_of_both_layouts(tmp_path):
    for folder in ("fused_adam", "py311_cpu/cpu_adam", "py311_cpu/fine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "fused_adam/lock").touch()
    (tmp_path / "py311_cpu/cpu_adam/lock").touch()
    assert stale_locks(tmp_path) == [tmp_path / "fused_adam/lock", tmp_path / "py311_cpu/cpu_adam/lock"]
    assert stale_locks(tmp_path / "nowhere") == []


def test_a_lock_that_a_live_build_holds_is_not_stale_until_it_is_killed(tmp_path):
    folder = tmp_path / "fused_adam"
    folder.mkdir()
    code = (
        "import sys, time; from torch.utils.file_baton import FileBaton; "
        "assert FileBaton(sys.argv[1]).try_acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    # The baton closes its file when it is dropped, as torch keeps it for the time of the build.
    code = code.replace("assert FileBaton(sys.argv[1]).try_acquire()", "b = FileBaton(sys.argv[1]); b.try_acquire()")
    child = subprocess.Popen([sys.executable, "-c", code, str(folder / "lock")], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout and child.stdout.readline() == "held\n"
        assert stale_locks(tmp_path) == []
    finally:
        child.kill()
        child.communicate()
    assert stale_locks(tmp_path) == [folder / "lock"]


def test_a_stale_lock_is_a_failure_with_the_command_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "fused_adam").mkdir()
    (tmp_path / "fused_adam/lock").touch()
    (tmp_path / "fused_adam/fused_adam.so").touch()
    findings = found(doctor._deepspeed)
    assert findings["DeepSpeed build lock"].mend == f"rm {tmp_path}/fused_adam/lock"
    assert findings["DeepSpeed operators"].found.endswith(": fused_adam")
    assert Report(tuple(findings.values())).exit_code == 6


@pytest.mark.parametrize(("folders", "status"), [(("normalization", "optimizers"), "ok"), (("i18n",), "warning")])
def test_apex_is_told_from_its_namesake_without_importing_it(tmp_path, monkeypatch, folders, status):
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex/__init__.py").write_text("raise RuntimeError('imported')")
    for folder in folders:
        (tmp_path / "apex" / folder).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert found(doctor._apex)["apex"].status == status


@pytest.mark.parametrize(
    ("environ", "what", "status", "words"),
    [
        ({}, "ranks", "ok", "one process alone"),
        ({}, "SLURM job", "absent", "not inside"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "ranks", "ok", "rank 1 of 2"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "ranks", "warning", "outside"),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "SLURM job", "warning", "batch shell"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"},
            "ranks",
            "ok",
            "rank 3 of 4, by SLURM",
        ),
    ],
)
def test_launcher_variables(environ, what, status, words):
    finding = found(doctor._ranks, environ)[what]
    assert finding.status == status and words in finding.found


def test_a_full_disk_is_missing_space(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("U", (), {"free": 2**20, "total": 2**40})())
    findings = found(doctor._space)
    assert findings["disk here"].status == "missing" and findings["disk of TMPDIR"].status == "warning"


def test_a_command_beside_python_is_found_without_activation(tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "mpirun"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tool.parent / "python"))
    finding = found(doctor._launchers)["mpirun"]
    assert finding.status == "ok" and str(tool) in finding.found and "not on PATH" in finding.found
    assert found(doctor._launchers)["srun"].status == "absent"
