"""Writing one self-contained HTML page: escaped text, tables, folded parts, embedded pictures; no links, no scripts.

Every function takes plain text and returns markup; nothing gets into the page unescaped except what they return.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bar: #0072b255; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p, li { max-width: 48rem; } .soft { opacity: .75; font-size: .9rem; }
ul.tiles { display: flex; flex-wrap: wrap; gap: .5rem; list-style: none; padding: 0; }
ul.tiles li { background: var(--soft); border-radius: .5rem; padding: .4rem .8rem; }
ul.tiles b { display: block; font-size: 1.15rem; }
nav a { margin-right: 1rem; }
div.wide { overflow-x: auto; max-height: 80vh; border: 1px solid var(--line); border-radius: .3rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { position: sticky; top: 0; background: Canvas; z-index: 1; vertical-align: bottom; }
th:first-child, td:first-child { position: sticky; left: 0; background: Canvas; text-align: left; }
thead th:first-child { z-index: 2; }
table.words td, table.words th { text-align: left; white-space: normal; min-width: 4rem; max-width: 40rem; }
td.bar { background: linear-gradient(90deg, var(--bar) var(--part), transparent var(--part)); }
details { border: 1px solid var(--line); border-radius: .3rem; margin: .3rem 0; padding: .3rem .6rem; }
summary { cursor: pointer; } blockquote { margin: .2rem 0 .5rem; padding: 0 .7rem; border-inline-start: 3px solid
var(--line); overflow-wrap: anywhere; white-space: pre-wrap; } code { overflow-wrap: anywhere; }
img { background: #fff; border-radius: .3rem; height: auto; max-width: 100%; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page with a heading; `name` is what `contents` jumps to."""
    return f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def contents(sections: Iterable[tuple[str, str]]) -> str:
    """Jumps to the sections (name, title)."""
    return "<nav>" + " ".join(f'<a href="#{escape(name)}">{escape(title)}</a>' for name, title in sections) + "</nav>"


def paragraph(text: str, *, soft: bool = False) -> str:
    """A paragraph; a soft one explains."""
    kind = ' class="soft"' if soft else ""
    return f"<p{kind}>{escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """A list of lines."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """A row of (number, what it counts)."""
    return '<ul class="tiles">' + "".join(f"<li><b>{escape(n)}</b>{escape(what)}</li>" for n, what in facts) + "</ul>"


def cell(text: str, *, part: float | None = None) -> str:
    """A cell of a table's body.

    Args:
        text: shown.
        part: length of a bar behind the text, 0 to 1.
    """
    attributes = f' class="bar" style="--part: {100 * part:.1f}%"' if part is not None else ""
    return f"<td{attributes}>{_isolated(text)}</td>"


def table(head: Iterable[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """A table that scrolls by itself; `rows` are what `cell` made. One of words is not set like one of numbers."""
    kind = ' class="words"' if words else ""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join("<tr>" + "".join(row) + "</tr>" for row in rows)
    return f'<div class="wide"><table{kind}>\n<thead><tr>{names}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def folded(summary: str, *parts: str) -> str:
    """Parts that open at a click."""
    return f"<details><summary>{escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def sample(text: str, *, label: str) -> str:
    """A piece of somebody's text, in its own direction."""
    return f'<div class="soft">{escape(label)}</div><blockquote dir="auto">{escape(text)}</blockquote>'


def picture(png: bytes, *, alt: str, width: int) -> str:
    """An embedded PNG, at most `width` CSS pixels wide."""
    data = base64.b64encode(png).decode("ascii")
    return f'<p><img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}"></p>'


def _isolated(text: str) -> str:
    """Text in its own direction inside a line; plain ASCII needs no mark-up for that."""
    return escape(text) if text.isascii() else f"<bdi>{escape(text)}</bdi>"
