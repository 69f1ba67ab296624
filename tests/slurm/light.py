"""A checkout whose trainer is a few lines without torch, so that what SLURM and the job script do costs no time.

It keeps the trainer's contract: steps that take 0.1 s, a checkpoint every tenth and whenever it is asked to stop, by
SIGTERM or a file; then it leaves with 75. It goes on from the newest checkpoint. The recipe's name says what ails it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runs import ROOT

STEPS = 100
TRAINER = """
import os, pathlib, signal, sys, time
words, name = sys.argv[1:], sys.argv[2]
if words[0] == "plan":
    sys.exit(0)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
rank, run = int(os.environ["SLURM_PROCID"]), pathlib.Path("runs", name)
stop = [run / "STOP", pathlib.Path(os.environ["UNIBERT_STOP_FILE"])]
done = sorted(run.glob("checkpoints/step_*"))
step = int(done[-1].name[5:]) if done else 0
if done and rank == 0:
    print(f"going on from {done[-1]}", flush=True)

def save():
    path = run / "checkpoints" / f"step_{step:08d}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "COMPLETE").touch()

while step < STEPS:
    time.sleep(0.1)
    step += 1
    if rank == 0:
        print(f"step={step}/STEPS", flush=True)
    if name == "hopeless" and step % 10 == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if asked or any(path.exists() for path in stop):
        save()
        sys.exit(75)
    if step % 10 == 0:
        save()
""".replace("STEPS", str(STEPS))
CONFIG = f"""
from types import SimpleNamespace
load_recipe = lambda name, words: SimpleNamespace(run_folder=f"runs/{{name}}", train=SimpleNamespace(steps={STEPS}))
"""


def make_checkout(folder: Path) -> Path:
    """The real job scripts beside a trainer of a few lines."""
    shutil.copytree(ROOT / "launch_slurm", folder / "launch_slurm")
    (folder / "unibert").mkdir()
    for name, text in (("__init__", ""), ("__main__", TRAINER), ("config", CONFIG)):
        (folder / "unibert" / f"{name}.py").write_text(text)
    return folder
