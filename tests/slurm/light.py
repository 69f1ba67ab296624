"""A checkout whose trainer is a few lines without torch, so that what SLURM and the job script do costs no time.

It keeps the trainer's contract: steps that take 0.1 s and end on all ranks together or not at all, a checkpoint every
tenth and whenever one of them is asked to stop, by SIGTERM or a file; then they leave with 75. They go on from the
newest checkpoint. The run's name says what ails it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runs import ROOT

STEPS = 100
TRAINER = """
import os, pathlib, signal, subprocess, sys, time
from multiprocessing.connection import Client, Listener
words, name = sys.argv[1:], sys.argv[2]
if words[0] == "plan":
    sys.exit(0)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
rank, world, run = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]), pathlib.Path("runs", name)
restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
stop = [run / "STOP", pathlib.Path(os.environ["UNIBERT_STOP_FILE"])]
done = sorted(run.glob("checkpoints/step_*"))
step = int(done[-1].name[5:]) if done else 0
if done and rank == 0:
    print(f"going on from {done[-1]}", flush=True)

def meet():
    first = subprocess.check_output(["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]], text=True)
    place = first.split()[0], 20000 + (int(os.environ["SLURM_JOB_ID"]) + 1009 * restart) % 10000
    if rank == 0:
        listener = Listener(place)
        return [listener.accept() for _ in range(1, world)]
    for _ in range(300):
        try:
            return [Client(place)]
        except OSError:
            time.sleep(0.1)

def agree(yes):
    if rank == 0:
        yes = any([yes, *(peer.recv() for peer in peers)])
    for peer in peers:
        peer.send(yes)
    return yes if rank == 0 else peers[0].recv()

def save():
    path = run / "checkpoints" / f"step_{step:08d}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "COMPLETE").touch()

peers = meet()
while step < STEPS:
    time.sleep(0.1)
    step += 1
    if name == "hopeless" and step % 10 == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    stopping = agree(bool(asked) or any(path.exists() for path in stop))
    if rank == 0:
        print(f"step={step}/STEPS", flush=True)
    if stopping:
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
