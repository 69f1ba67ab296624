"""Which nodes are bad, by what all of them said."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unibert.preflight.look import Answer

CLOCK_SECONDS = 5.0
"""Files' times and certificates are wrong beyond."""
SLOW = 0.25
"""A node is slow when its best link has less than this part of the median over all links."""


@dataclass(frozen=True)
class Verdict:
    """Bad nodes and why; or why nobody can say which ones are."""

    bad: dict[str, str]
    unclear: str | None = None
    facts: str = ""
    """What is worth a line where all is well."""


def read_answers(file: Path) -> list[Answer]:
    """Every whole line of JSON of a file that many processes wrote to."""
    answers = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and {"node", "stage"} <= answer.keys():
            answers.append(answer)
    return answers


def judge(answers: Sequence[Answer], nodes: Sequence[str], *, stage: str) -> Verdict:
    """Which nodes are bad, by what they said at a stage; the last word of each counts."""
    said = {answer["node"]: answer for answer in answers if answer["stage"] == stage}
    if stage == "look":
        bad = {node: "it said nothing: no task could run there" for node in nodes if node not in said}
        bad |= {node: "; ".join(answer["wrong"]) for node, answer in said.items() if answer["wrong"]}
        verdict = _odd_ones(said, nodes, bad)
    else:
        verdict = _strangers(said, nodes)
    if len(verdict.bad) == len(nodes):
        reason = "; ".join(f"{node}: {why}" for node, why in verdict.bad.items())
        return Verdict({}, f"every node is bad, so it is rather the job or the cluster. {reason}")
    return verdict


def _odd_ones(said: dict[str, Answer], nodes: Sequence[str], bad: dict[str, str]) -> Verdict:
    """Those whose code, packages or data the smaller part of the nodes has."""
    for name in ("code", "packages", "data"):
        values = {node: answer["same"][name] for node, answer in said.items() if node not in bad}
        common = Counter(values.values()).most_common(2)
        if len(common) < 2:
            continue
        if common[0][1] == common[1][1]:
            different = ", ".join(f"{node}: {value}" for node, value in values.items())
            return Verdict(bad, f"the nodes see different {name}, and no side is the smaller one ({different})")
        bad |= {node: f"other {name} than most nodes" for node, value in values.items() if value != common[0][0]}
    return Verdict(bad, facts=f"{len(nodes)} nodes: devices, disks, code and data are fine")


def _strangers(said: dict[str, Answer], nodes: Sequence[str]) -> Verdict:
    """Those that did not reach the first one, have another time, or only slow links."""
    away = {node: f"it did not reach {nodes[0]}" for node in nodes if not said.get(node, {}).get("reached")}
    if away:
        if len(away) == len(nodes) - 1 > 1:
            return Verdict({nodes[0]: "no other node reached it"})
        if nodes[0] in away or len(nodes) == 2:
            return Verdict({}, f"{', '.join(away)} did not meet {nodes[0]}, and nobody can say whose fault it is")
        return Verdict(away)
    if not all("clock" in said[node] for node in nodes):
        lost = [node for node in nodes if "clock" not in said[node]]
        return Verdict({}, f"the network between the nodes failed; {', '.join(lost)} got no result")
    now = statistics.median(said[node]["clock"] for node in nodes)
    skew = {node: said[node]["clock"] - now for node in nodes}
    bad = {node: f"its clock is off by {off:.1f} s" for node, off in skew.items() if abs(off) > CLOCK_SECONDS}
    if bad and 2 * len(bad) >= len(nodes):
        return Verdict({}, "; ".join(f"{node}: {why}" for node, why in bad.items()))
    links = [speed for node in nodes for speed in said[node]["links_mb_s"]]
    for node in nodes:
        best = max(said[node]["links_mb_s"], default=None)
        if best is not None and best < SLOW * statistics.median(links):
            bad[node] = f"its best link makes {best:.0f} MB/s, the median is {statistics.median(links):.0f}"
    slowest = min(said[node]["all_reduce_mb_s"] for node in nodes)
    width = max(skew.values()) - min(skew.values())
    return Verdict(bad, facts=f"{len(nodes)} nodes: all-reduce {slowest:.0f} MB/s, clocks within {width:.3f} s")
