"""Preparing text, killed again and again, must end with the bytes of an unbroken run of one process.

    python tests/resume/data_chaos.py --kills 10 --seed 1 --workers 2
    python tests/resume/data_chaos.py --kills 3 --ranks 3
    python tests/resume/data_chaos.py --kills 1 --members 3

Every stage is the real command. It is killed with all its processes at random moments (SIGKILL) and started again. At
the end every file of the data folder is compared: text, records, tokenizer, shards, reports; nothing else may be left.
The work is done by processes (--workers), by MPI ranks (--ranks), or by the members of a pretend SLURM array, which run
all stages beside each other and of which one is killed at a time (--members).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.resume import data_corpora  # noqa: E402
from tests.runs import environment, launcher_words  # noqa: E402

STAGES = ("fetch", "parallel", "clean", "dedup", "tokenize", "pairs", "check")
LIMIT_SECONDS = 600
ALIVE_SECONDS = 20

Kill = tuple[str, float]
"""A stage, and the seconds after its start."""


@dataclass
class Preparation:
    """A data folder, and who fills it."""

    recipe: Path
    data: Path
    workers: int = 1
    ranks: int = 1
    stages: Sequence[str] = STAGES
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took from its last start to its end."""

    @property
    def said(self) -> Path:
        """The file with everything that the commands print."""
        return self.data.with_name(f"{self.data.name}.txt")

    def words(self, stage: str) -> list[str]:
        """The command of a stage."""
        words = launcher_words("mpirun" if self.ranks > 1 else "alone", world=self.ranks)
        words += ["data", stage, str(self.recipe), "--data.folder", str(self.data)]
        return words if self.ranks > 1 else [*words, "--workers", str(self.workers)]

    def start(self, words: Sequence[str], **env: str) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own."""
        with self.said.open("ab") as out:
            return subprocess.Popen(
                words,
                env=environment(**env),
                cwd=self.recipe.parent,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """It must end well."""
        code = process.wait(timeout=LIMIT_SECONDS)
        assert code == 0, f"{process.args} left with {code}:\n{self.said.read_text()[-4000:]}"

    def run(self, stages: Sequence[str] | None = None) -> Preparation:
        """Stage after stage, or only some, undisturbed."""
        for stage in self.stages if stages is None else stages:
            began = time.monotonic()
            self.finish(self.start(self.words(stage)))
            self.seconds[stage] = time.monotonic() - began
        return self

    def disturbed(self, kills: Sequence[Kill]) -> int:
        """Stage after stage, each killed as planned; returns how many kills came before the end of the stage."""
        hit = 0
        for stage in self.stages:
            for _, moment in (kill for kill in kills if kill[0] == stage):
                process = self.start(self.words(stage))
                try:
                    process.wait(timeout=moment)
                except subprocess.TimeoutExpired:
                    kill_session(process)
                    hit += 1
                    done, begun = (len(list(self.data.rglob(name))) for name in ("*.done.json", ".*.tmp"))
                    print(f"  {stage} killed after {moment:.2f} s: {done} tasks done, {begun} files begun", flush=True)
            self.run([stage])
        return hit

    def array(self, members: int, kills: Sequence[float], chance: random.Random) -> None:
        """All stages by every member of an array; one is killed at each of these moments and comes back at once."""
        script = "\n".join(" ".join(f"'{word}'" for word in self.words(stage)) + " || exit" for stage in self.stages)

        def start(number: int) -> subprocess.Popen[bytes]:
            env = {"ID": str(number), "COUNT": str(members), "MIN": "0", "STEP": "1"}
            env = {f"SLURM_ARRAY_TASK_{name}": value for name, value in env.items()}
            return self.start(["sh", "-c", script], **env)

        running = [start(number) for number in range(members)]
        began = time.monotonic()
        for moment in sorted(kills):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            number = chance.randrange(members)
            kill_session(running[number])
            print(f"  member {number} killed after {moment:.2f} s", flush=True)
            running[number] = start(number)
        for process in running:
            self.finish(process)
        assert not list(self.data.rglob("*.claim")), "claims are left"
        if kills:
            self.workers = 1
            self.run()  # it has nothing to do but to sweep what the killed members had begun


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill everyone whom the process started, as the end of a job does, and wait until they are gone."""
    while pids := in_session(process.pid):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.01)
    process.wait()


def in_session(leader: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


def moments(seconds: dict[str, float], count: int, chance: random.Random) -> list[Kill]:
    """Random moments of an unbroken run that takes so long in each stage, few of them while Python is starting."""
    starting = 0.7 * min(seconds.values())
    stages = chance.choices(list(seconds), weights=[total - starting for total in seconds.values()], k=count)
    return [(stage, chance.uniform(starting, seconds[stage])) for stage in stages]


def same_files(found: Path, expected: Path) -> int:
    """Demand that two folders hold the same files; returns their number."""
    mine, theirs = digests(found), digests(expected)
    assert mine.keys() == theirs.keys(), f"files of one alone: {sorted(mine.keys() ^ theirs.keys())[:20]}"
    different = [name for name in mine if mine[name] != theirs[name]]
    assert not different, f"{len(different)} of {len(mine)} files differ: {different[:20]}"
    return len(mine)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def play(recipe: Path, expected: Path, *, kills: int, workers: int, ranks: int, chance: random.Random) -> int:
    """An unbroken preparation, then killed ones until there were so many kills; returns the files compared."""
    whole = Preparation(recipe, expected.with_name("unbroken"), workers, ranks).run()
    files = same_files(whole.data, expected)
    print(f"unbroken: {files} files are the same; " + ", ".join(f"{s} {t:.1f} s" for s, t in whole.seconds.items()))
    passes = hit = 0
    while hit < kills:
        passes += 1
        broken = Preparation(recipe, expected.with_name(f"broken-{passes}"), workers, ranks)
        hit += broken.disturbed(moments(whole.seconds, kills - hit, chance))
        files += same_files(broken.data, expected)
    print(f"killed {hit} times in {passes} preparations; {files} files are the same in all")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1, help="of MPI, under mpirun")
    parser.add_argument("--members", type=int, default=1, help="of a SLURM array")
    parser.add_argument("--size", type=float, default=4.0, help="of the corpora, in MB of text")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        recipe = data_corpora.write(Path(name) / "corpora", size=given.size)
        expected = Preparation(recipe, Path(name) / "expected").run()
        if given.members > 1:
            array = Preparation(recipe, Path(name) / "array", given.workers)
            total = sum(expected.seconds.values())
            array.array(given.members, [chance.uniform(1, total / 2) for _ in range(given.kills)], chance)
            print(f"{same_files(array.data, expected.data)} files of {given.members} members are the same")
            return
        play(recipe, expected.data, kills=given.kills, workers=given.workers, ranks=given.ranks, chance=chance)


if __name__ == "__main__":
    main()
