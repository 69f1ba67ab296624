"""One run, disturbed again and again, must end as if nothing had happened.

    python tests/resume/chaos.py --steps 200 --kills 15 --seed 1

Ranks and whole jobs are killed, told to stop, killed while they save and run out of disk; checkpoints are cut and
bit-flipped; the number of ranks changes from start to start. At the end: every step was trained on the samples that
the unbroken run gave it; no restart went back further than the newest checkpoint that was sound; the losses are the
unbroken run's to 1e-5; and a step that was repeated on the same number of ranks gave the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.runs import environment, free_port, metrics  # noqa: E402
from tests.tiny import make_workspace  # noqa: E402
from unibert.runtime.checkpoint import complete_folders, newest_sound  # noqa: E402

KINDS = ("kill one rank", "kill all", "SIGTERM", "kill while saving", "disk full", "cut the newest", "flip a bit")
LIMIT_SECONDS = 240
SETTINGS = """--train.global_batch_sequences=12 --train.micro_batch_sequences=2 --save.every_steps=7 --save.keep_last=3
    --save.export=false --log.evaluate_every_steps=100000""".split()


@dataclass
class Attempt:
    """One start of the run."""

    number: int
    world: int
    kind: str
    begins_after: int
    """The checkpoint's step that it should go on from."""
    wakes_seconds: float = 0.0
    """From the start of the command to the first trained step."""

    @property
    def record(self) -> str:
        """What its files are called."""
        return f"attempt_{self.number}"


class Chaos:
    """The run, its folder, and what was seen of it."""

    def __init__(self, folder: Path, *, steps: int, kills: int, seed: int, worlds: list[int]) -> None:
        self.folder, self.steps, self.worlds = folder, steps, worlds
        self.chance = random.Random(seed)
        self.recipe = make_workspace(folder)
        self.runs = folder / "runs"
        self.runs.mkdir(exist_ok=True)
        kinds = [KINDS[i % len(KINDS)] for i in range(kills)]
        self.chance.shuffle(kinds)
        moments = sorted(self.chance.sample(range(2, steps - 15), kills))  # a save comes before the end
        self.plan = list(zip(kinds, moments, strict=True))
        self.attempts: list[Attempt] = []

    @property
    def run(self) -> Path:
        return self.runs / "chaos"

    def start(self, name: str, world: int, record: str) -> subprocess.Popen[bytes]:
        """Start the trainer; what it prints goes to <record>.txt."""
        words = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", str(world)]
        words += ["--master_port", str(free_port()), str(ROOT / "tests" / "resume" / "recorded.py"), "train"]
        words += [str(self.recipe), "--name", name, "--train.steps", str(self.steps), *SETTINGS]
        env = environment(RECORD=str(self.folder / record))
        with open(self.folder / f"{record}.txt", "w") as out:
            return subprocess.Popen(
                words, env=env, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def finish(self, process: subprocess.Popen[bytes], record: str, *, well: bool) -> None:
        """Every command ends in bounded time."""
        process.wait(timeout=LIMIT_SECONDS + self.steps)
        if well:
            assert process.returncode == 0, (self.folder / f"{record}.txt").read_text()[-4000:]

    def reference(self) -> None:
        """The run that nothing happens to."""
        self.finish(self.start("unbroken", self.worlds[0], "unbroken"), "unbroken", well=True)

    def play(self) -> None:
        """Start again until the run ends by itself."""
        for kind, moment in [*self.plan, ("", 0)]:
            sound = newest_sound(self.run / "checkpoints")
            begins_after = int(sound.name.removeprefix("step_")) if sound else 0
            attempt = Attempt(len(self.attempts), self.chance.choice(self.worlds), kind, begins_after)
            self.attempts.append(attempt)
            began = time.monotonic()
            process = self.start("chaos", attempt.world, attempt.record)
            self.wait(process, attempt, 1)
            attempt.wakes_seconds = time.monotonic() - began
            if kind:
                self.wait(process, attempt, max(moment, begins_after + 1))
                self.disturb(process, attempt)
            self.finish(process, attempt.record, well=not kind)
            print(f"{attempt} ended with {process.returncode} after step {self.last_step(attempt)}", flush=True)
            self.damage(kind)

    def disturb(self, process: subprocess.Popen[bytes], attempt: Attempt) -> None:
        """What the attempt is for."""
        pids = [int(file.read_text()) for file in sorted(self.folder.glob(f"{attempt.record}_rank_*.pid"))]
        kind = attempt.kind
        if kind == "kill while saving":
            while not any((self.run / "checkpoints").glob(".unfinished_*")) and process.poll() is None:
                time.sleep(0.001)
        if kind == "disk full" and os.path.ismount(self.runs):
            with self.full_disk():
                self.finish(process, attempt.record, well=False)
        elif kind in ("kill one rank", "SIGTERM", "disk full"):
            os.kill(self.chance.choice(pids), signal.SIGKILL if kind == "kill one rank" else signal.SIGTERM)
        else:
            for pid in pids:  # before their launcher, which would ask them politely
                os.kill(pid, signal.SIGKILL)
            os.killpg(process.pid, signal.SIGKILL)

    def damage(self, kind: str) -> None:
        """Spoil the newest checkpoint, when there is another one to fall back to."""
        found = complete_folders(self.run / "checkpoints")
        if len(found) < 2 or kind not in ("cut the newest", "flip a bit"):
            return
        victim = max((found[0] / "student").glob("*.safetensors"), key=lambda path: path.stat().st_size)
        data = bytearray(victim.read_bytes())
        if kind == "cut the newest":
            data = data[: self.chance.randrange(len(data))]
        else:
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        victim.write_bytes(bytes(data))

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """The runs' tmpfs has no room for another checkpoint."""
        size = shutil.disk_usage(self.runs).used // 1024 + 16
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(self.runs)], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,size=2g", str(self.runs)], check=True)

    def wait(self, process: subprocess.Popen[bytes], attempt: Attempt, step: int) -> None:
        """Until the attempt has trained this step."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.last_step(attempt) < step:
            said = (self.folder / f"{attempt.record}.txt").read_text()
            assert process.poll() is None, f"{attempt} left with {process.returncode}:\n{said[-4000:]}"
            assert time.monotonic() < deadline, f"{attempt} waited in vain:\n{said[-4000:]}"
            time.sleep(0.02)

    def last_step(self, attempt: Attempt) -> int:
        return max((line["step"] for line in self.lines(attempt.record, rank=0)), default=0)

    def lines(self, record: str, *, rank: int) -> list[dict]:
        path = self.folder / f"{record}_rank_{rank}.jsonl"
        if not path.exists():
            return []
        # A killed rank may leave half a line.
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def samples(self, record: str, world: int) -> dict[int, list[int]]:
        """Step -> its samples in the order of the stream, over those ranks that recorded it."""
        by_step: dict[int, dict[int, list[list[int]]]] = {}
        for rank in range(world):
            for line in self.lines(record, rank=rank):
                by_step.setdefault(line["step"], {})[rank] = line["samples"]
        whole = {step: ranks for step, ranks in by_step.items() if len(ranks) == world}
        return {
            step: [s for micro in range(len(ranks[0])) for rank in range(world) for s in ranks[rank][micro]]
            for step, ranks in whole.items()
        }

    def check(self) -> dict[str, float]:
        """Everything that must hold; the figures seen."""
        expected = metrics(self.runs / "unbroken")
        found = metrics(self.run)
        assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(1, self.steps + 1))
        order = self.samples("unbroken", self.worlds[0])
        assert [s for step in sorted(order) for s in order[step]] == list(range(12 * self.steps))
        trained = 0
        for attempt in self.attempts:
            for step, samples in self.samples(attempt.record, attempt.world).items():
                assert samples == order[step], f"{attempt}: step {step} had other samples"
                trained += 1
            lines = self.lines(attempt.record, rank=0)
            assert lines[0]["step"] == attempt.begins_after + 1, f"{attempt} began at step {lines[0]['step']}"
            assert {line["world"] for line in lines} == {attempt.world}
        apart = max(
            abs(row[tag] - other[tag]) / max(abs(other[tag]), 0.1)  # a small KL is the difference of large numbers
            for row, other in zip(found, expected, strict=True)
            for tag in other
            if tag.startswith("loss/")
        )
        assert apart < 1e-5, f"the losses differ by {apart:.2e}"
        return {
            "starts": len(self.attempts),
            "steps trained in all": trained,
            "largest relative difference of a loss": apart,
            "repeated steps of the same bits": self.check_bits(found if len(set(self.worlds)) == 1 else None, expected),
        }

    def check_bits(self, found: list[dict] | None, expected: list[dict]) -> int:
        """Steps that two starts in a row did alike: the later from a checkpoint of the earlier, on as many ranks."""
        if found is not None:  # always the same world: the whole run must be the unbroken one
            for row, other in zip(found, expected, strict=True):
                mine = {tag: value for tag, value in row.items() if tag.startswith(("loss/", "optim/"))}
                assert mine == {tag: other[tag] for tag in mine}, f"step {row['step']}"
        same = 0
        for before, after in zip(self.attempts, self.attempts[1:], strict=False):
            if before.world == after.world and after.begins_after > before.begins_after:
                first = {line["step"]: line["values"] for line in self.lines(before.record, rank=0)}
                for line in self.lines(after.record, rank=0):
                    if line["step"] in first:
                        assert line["values"] == first[line["step"]], f"{after}: step {line['step']} has other bits"
                        same += 1
        return same


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A tmpfs in the place of the runs, where this user may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(words, check=False).returncode == 0
    if not mounted:
        print("nobody may mount here: the full disk becomes a SIGTERM", flush=True)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3], help="numbers of ranks to choose from")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "runs"):
        chaos = Chaos(Path(name), steps=given.steps, kills=given.kills, seed=given.seed, worlds=given.worlds)
        chaos.reference()
        chaos.play()
        for what, value in chaos.check().items():
            print(f"{what}: {value:.3g}" if isinstance(value, float) else f"{what}: {value}")
        again = sorted(attempt.wakes_seconds for attempt in chaos.attempts)
        middle, worst = again[len(again) // 2], again[-1]
        print(f"seconds from the command to the first trained step: median {middle:.1f}, worst {worst:.1f}")


if __name__ == "__main__":
    main()
