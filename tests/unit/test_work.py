"""Tasks of a stage: each done once, by any crew, and again only when it must; kills, orphans, members of an array."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import environment
from tests.unit import small_tasks
from tests.unit.small_tasks import do, executed, failing, killing, plain
from unibert.cli import main
from unibert.data.claims import SECONDS_UNTIL_STALE, Claims
from unibert.data.work import Crew, crew, sweep
from unibert.errors import ConfigError, DataError, MachineError

EXPECTED = [{"number": number, "pair": [number, {str(number): "ü"}]} for number in range(8)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- one process ------------------------------------------------------------------------------------------------------


def test_each_task_is_done_once_and_a_restart_gives_the_same_results(tmp_path: Path) -> None:
    first = do(plain, tmp_path, 8)
    before = files(tmp_path)
    assert first == EXPECTED == do(plain, tmp_path, 8)  # in JSON's types, the first time too
    assert executed(tmp_path) == list(range(8)) and files(tmp_path) == before
    assert do(plain, tmp_path, 8, force=True) == EXPECTED
    assert executed(tmp_path) == [*range(8), *range(8)]


def test_what_is_done_outlives_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="task 3"):
            do(failing, tmp_path, 8)
    assert executed(tmp_path) == [0, 1, 2, 3, 3]
    (tmp_path / "mended").touch()
    assert do(failing, tmp_path, 8) == EXPECTED
    assert Counter(executed(tmp_path)) == Counter([*range(8), 3, 3])


@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "record missing", "record cut", "record of something"])
def test_a_task_whose_file_or_record_is_not_whole_is_done_again(tmp_path: Path, damage: str) -> None:
    do(plain, tmp_path, 8)
    before = files(tmp_path / "out")
    path = tmp_path / "out" / ("t5.done.json" if "record" in damage else "5.txt")
    content = {"cut": path.read_bytes()[:-3], "longer": path.read_bytes() + b"x", "something": b"[]\n"}
    if damage.endswith("missing"):
        path.unlink()
    else:
        path.write_bytes(content[damage.rsplit(maxsplit=1)[-1]])
    assert do(plain, tmp_path, 8) == EXPECTED
    assert executed(tmp_path) == [*range(8), 5] and files(tmp_path / "out") == before


def test_other_settings_are_other_work(tmp_path: Path) -> None:
    do(plain, tmp_path, 3)
    do(plain, tmp_path, 3, rule=1)
    do(plain, tmp_path, 3, rule=1)
    assert executed(tmp_path) == [0, 1, 2] * 2
    do(plain, tmp_path, 4, rule=1)
    assert executed(tmp_path)[6:] == [3]


def test_a_task_that_is_done_again_is_not_done_until_it_is(tmp_path: Path) -> None:
    (tmp_path / "mended").touch()
    do(failing, tmp_path, 4)
    (tmp_path / "mended").unlink()
    with pytest.raises(DataError):
        do(failing, tmp_path, 4, force=True)
    assert not (tmp_path / "out" / "t3.done.json").exists()


def test_what_killed_processes_left_is_swept_away(tmp_path: Path) -> None:
    do(plain, tmp_path, 2)
    before = files(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for left in (".x.json.123.tmp", "a/b/.y.tokens.0a1b2c.tmp"):
        (tmp_path / left).write_bytes(b"half")
    (tmp_path / ".part.tmp").mkdir()  # a folder is another stage's own affair
    sweep(tmp_path)
    assert files(tmp_path) == before and (tmp_path / ".part.tmp").is_dir()


def test_two_tasks_of_one_name_and_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--workers 0: at least 1"), crew(0):
        pass
    twice = [*small_tasks.tasks(tmp_path, 2), *small_tasks.tasks(tmp_path, 1)]
    with pytest.raises(AssertionError, match="two tasks of one name"):
        small_tasks.perform(plain, twice, folder=tmp_path, what="test")


# --- a pool of processes ----------------------------------------------------------------------------------------------


def test_a_pool_gives_the_bytes_of_one_process_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    alone, pool = tmp_path / "alone", tmp_path / "pool"
    alone.mkdir()
    pool.mkdir()
    do(plain, alone, 8)
    with crew(2) as those, pytest.raises(MachineError, match=r"a worker process was killed.*run the command again"):
        do(killing, pool, 8, crew=those)
    assert list((pool / "out").glob(".3.txt.*.tmp")) and not (pool / "out" / "3.txt").exists()
    begun = executed(pool)
    done = {int(path.name[1]) for path in (pool / "out").glob("*.done.json")}
    sweep(pool)
    (pool / "mended").touch()
    with crew(2) as those:
        assert those.workers == 2
        assert do(killing, pool, 8, crew=those) == EXPECTED
    again = Counter(executed(pool)[len(begun) :])
    assert again == Counter(set(range(8)) - done)
    assert files(pool / "out") == files(alone / "out")


def test_an_error_in_a_worker_is_the_users_error(tmp_path: Path) -> None:
    with crew(2) as those, pytest.raises(DataError, match="task 3: this cannot be read"):
        do(failing, tmp_path, 8, crew=those)
    assert executed(tmp_path).count(3) == 1


def start(folder: Path, kind: str, *, count: int, workers: int, **env: str) -> subprocess.Popen[str]:
    words = [sys.executable, str(small_tasks.HERE), str(folder), str(count), kind, str(workers)]
    return subprocess.Popen(words, env=environment(**env), stdout=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "endless", count=4, workers=2)
    wait(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    pids = {int(path.read_text() or 0) for path in tmp_path.glob("*.pid")} | set(map(int, children))
    assert len(pids) >= 2 and all(map(is_alive, pids))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait(lambda: not any(map(is_alive, pids)))


# --- members of an array ----------------------------------------------------------------------------------------------


def member(
    folder: Path, number: int, *, of: int = 3, count: int = 24, workers: int = 1, **more: str
) -> subprocess.Popen[str]:
    env = more | {"SLURM_ARRAY_TASK_ID": str(4 + 2 * number), "SLURM_ARRAY_TASK_COUNT": str(of)}
    env |= {"SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_STEP": "2"}
    return start(folder, "slow", count=count, workers=workers, **env)


def results(process: subprocess.Popen[str]) -> list[dict]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])  # before it, what was done when it began


def test_members_of_an_array_share_the_tasks_and_all_have_all_results(tmp_path: Path) -> None:
    members = [member(tmp_path, number) for number in range(3)]
    found = [results(process) for process in members]
    assert found[0] == found[1] == found[2] and [row["number"] for row in found[0]] == list(range(24))
    begun = executed(tmp_path)
    assert set(begun) == set(range(24)) and len(begun) <= 25
    assert not list(tmp_path.rglob("*.claim")) and not list(tmp_path.rglob("*.now"))


def test_the_work_of_a_member_that_dies_is_done_by_others(tmp_path: Path) -> None:
    first = member(tmp_path, 0, of=2, count=12, workers=2)
    wait(lambda: bool(list(tmp_path.rglob("*.claim"))))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert list(tmp_path.rglob("*.claim"))
    assert len(results(member(tmp_path, 1, of=2, count=12, STALE="1.5"))) == 12
    assert not list(tmp_path.rglob("*.claim"))


def claims_of(member: int, members: int = 3) -> Claims:
    return Claims(member=member, members=members)


def test_a_claim_is_anothers_until_it_is_released_or_stale(tmp_path: Path) -> None:
    one, other = claims_of(0), claims_of(1)
    task = tmp_path / "deep" / "t1"
    assert one.take(task) and not other.take(task)
    one.release(task)
    assert other.take(task) and not one.take(task)
    old = time.time() - 2 * SECONDS_UNTIL_STALE
    os.utime(tmp_path / "deep" / "t1.claim", (old, old))
    assert one.take(task) and not other.take(task)  # it is as new as if one had made it
    other.release(tmp_path / "deep" / "t2")  # that nobody has


def test_members_begin_at_different_tasks() -> None:
    begin = [claims_of(member, 4).in_my_order(list(range(100)))[0] for member in range(4)]
    assert begin == [0, 25, 50, 75]
    assert sorted(claims_of(3, 4).in_my_order(list(range(5)))) == list(range(5))
    assert claims_of(2).in_my_order([]) == []


def test_force_in_an_array_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--force in an array"):
        do(plain, tmp_path, 2, crew=Crew(claims=claims_of(0)), force=True)
    (tmp_path / "text.txt").write_text("One line of plain text that is long enough.\n")
    path = tmp_path / "r.toml"
    path.write_text(f"""name = "r"
        languages = ["en"]
        [student]
        start = "random"
        [data]
        folder = "{tmp_path}/data"
        [[data.sources]]
        kind = "text"
        name = "own"
        licence = "CC0"
        language = "en"
        path = "{tmp_path}/text.txt"
        [objectives.masked_lm]
    """)
    for name, value in (("ID", 1), ("COUNT", 2), ("MIN", 0)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    with pytest.raises(SystemExit) as left:
        main(["data", "fetch", str(path), "--force", "--workers", "1"])
    assert left.value.code == 2 and not (tmp_path / "data" / "raw" / "manifest.json").exists()
    main(["data", "fetch", str(path), "--workers", "1"])
    assert (tmp_path / "data" / "raw" / "manifest.json").exists()
