"""Wiki markup to text, in time linear in the page: what a reader sees of the prose, a paragraph a line.

Dropped: comments, references, formulas, galleries and their like, templates, tables, links to files, categories and
other languages, headings (a break), sections that are references, links or lists. Links become their text, and so do
{{lang|...}} and {{nowrap|...}}; what any other template would have said (a number with its unit) is lost with it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Collection, Iterator

LARGEST_LIST_SHARE = 0.75
"""A section with a larger share of list lines is a list and dropped."""

_CUT = """ref math chem ce pre gallery syntaxhighlight source score timeline graph hiero imagemap mapframe maplink
includeonly templatedata inputbox categorytree""".split()
_RAW = re.compile(rf"<!--|<(nowiki|{'|'.join(_CUT)})\b([^<>]*)>", re.IGNORECASE)
_ENDS = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("nowiki", *_CUT)}
_MARKS = str.maketrans("", "", "[]{}|<>=*#'")

# `]]]` ends a web link and then a link; a table begins and ends at the start of a line.
_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\](?!\](?!\]))|^[ \t:*#]*\{\||^[ \t]*\|\}(?!\})", re.MULTILINE)
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|"}

_MARKS_TEXT = re.compile(r"(?:lang\|[a-z-]{2,12}|lang-[a-z-]{2,12}|nowrap|nobr)\|([^|={}\n]+)", re.IGNORECASE)
_MEDIA = re.compile(
    r"\.(?:jpe?g|png|svg|gif|tiff?|webp|xcf|djvu|pdf|og[gav]|opus|web[mp]|mp[34]|wav|mid|flac|stl)\s*$", re.I
)
_INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*")
_HEADING = re.compile(r"^(={1,6})([^\n]+?)\1[ \t]*$", re.MULTILINE)

_WEB_LINK = re.compile(
    r"\[(?:https?:|ftp:|mailto:|news:)?//?[^\s\[\]]*[ \t]*([^\[\]\n]*)\]|\[mailto:[^\s\]]*\s*([^\]\n]*)\]"
)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,1000}>")
_MAGIC = re.compile(r"__\w+?__")
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_QUOTES = re.compile(r"'{2,}")
_EMPTY = re.compile(r"[(（\[][\s,;:،؛、，；/–-]*[)）\]]")
_AFTER_OPEN = re.compile(r"([(（])[\s,;:،؛、，；]+")
_BEFORE_CLOSE = re.compile(r"[\s,;،؛、，；]+([)）])")
_BEFORE_STOP = re.compile(r" ([,.،。、，](?!\d))")


def plain(text: str, *, hidden: Collection[str] = (), dropped_sections: Collection[str] = ()) -> str:
    """The prose of a page, a paragraph a line.

    Args:
        text: the page's wiki markup.
        hidden: prefixes (case folded) of links that a reader does not see, such as `file` and `category`.
        dropped_sections: headings (case folded) of sections that are not prose.
    """
    text = _without_calls(_without_raw(text), hidden)
    return "\n".join(paragraph for body in _sections(text, dropped_sections) for paragraph in _paragraphs(body))


def _without_raw(text: str) -> str:
    """Without comments and the tags whose content is not markup; a tag that is never closed goes alone."""
    if "<" not in text:
        return text
    out: list[str] = []
    unclosed: set[str] = set()  # looked for once, so that a page of them takes no longer
    at = 0
    while match := _RAW.search(text, at):
        out.append(text[at : match.start()])
        at = match.end()
        name = (match[1] or "").lower()
        if not name:
            end = text.find("-->", at)
            at = end + 3 if end >= 0 else len(text)
        elif not match[2].endswith("/") and name not in unclosed:
            if (end := _ENDS[name].search(text, at)) is None:
                unclosed.add(name)
                continue
            if name == "nowiki":
                out.append(text[at : end.start()].translate(_MARKS))
            at = end.end()
    return "".join(out) + text[at:]


def _without_calls(text: str, hidden: Collection[str]) -> str:
    """Without templates and tables, links as their text, however nested; what is not closed stays as written."""
    out: list[str] = []
    frames: list[tuple[str, int]] = []  # what is open, and where in `out` it began
    count: Counter[str] = Counter()
    at = 0
    for match in _TOKEN.finditer(text):
        out.append(text[at : match.start()])
        at = match.end()
        token = match[0].lstrip(" \t:*#")
        opener = _CLOSES.get(token)
        if opener is None:
            frames.append((token, len(out)))
            count[token] += 1
            out.append(token)
        elif not count[opener]:
            out.append(token)
        else:
            kind, start = frames.pop()
            while kind != opener:
                count[kind] -= 1
                kind, start = frames.pop()
            count[kind] -= 1
            inside = "".join(out[start + 1 :]) if kind != "{|" else ""
            seen = _link(inside, hidden) if kind == "[[" else _call(inside)
            del out[start:]
            out.append(seen)
    return "".join(out) + text[at:]


def _call(content: str) -> str:
    """What a reader sees of a template: the text of those that only mark text; the others are not known here."""
    match = _MARKS_TEXT.match(content)
    return match[1] if match else ""


def _link(content: str, hidden: Collection[str]) -> str:
    """What a reader sees of a link: its label, else its target; nothing of files, categories, other languages."""
    target, bar, label = content.partition("|")
    target = target.strip()
    if target.startswith(":"):
        return label if bar else target[1:]
    prefix, colon, rest = target.partition(":")
    if colon:
        if prefix.strip().replace("_", " ").casefold() in hidden or _MEDIA.search(rest):
            return ""
        if _INTERWIKI.fullmatch(prefix) and not bar:
            return ""
    return label if bar else target.replace("_", " ")


def _sections(text: str, dropped: Collection[str]) -> Iterator[str]:
    """The text between headings, without the sections called so and what is below them."""
    at, level, dropped_below = 0, 0, 7
    title = ""
    for match in [*_HEADING.finditer(text), None]:
        if level <= dropped_below:
            dropped_below = level if title in dropped else 7
            if dropped_below == 7:
                yield text[at : match.start() if match else len(text)]
        if match:
            at, level = match.end(), len(match[1])
            title = _QUOTES.sub("", _TAG.sub("", match[2])).strip(" \t:").casefold()


def _paragraphs(body: str) -> list[str]:
    """The lines of a section that are prose; none when it is a list."""
    lines = [line for line in map(str.strip, body.split("\n")) if line and line[0] not in "|!" and line[:4] != "----"]
    listed = sum(line[0] in "*#" for line in lines)
    if listed > LARGEST_LIST_SHARE * len(lines):
        return []
    return [text for line in lines if (text := _line(line.lstrip("*#:; ")))]


def _line(text: str) -> str:
    """One line without inline markup, mended where something was cut out of it."""
    if "[" in text:
        text = _WEB_LINK.sub(lambda match: match[1] or match[2] or "", text)
    if "<" in text:
        text = _TAG.sub(" " if "<br" in text else "", text)
    if "__" in text:
        text = _MAGIC.sub("", text)
    if "-{" in text:
        text = _VARIANT.sub(_variant, text)
    if "''" in text:
        text = _QUOTES.sub(lambda match: "'" if len(match[0]) == 4 else "", text)
    if "&" in text:
        text = html.unescape(text)
    text = " ".join(text.split())
    if "(" in text or "（" in text:
        text = _EMPTY.sub("", _BEFORE_CLOSE.sub(r"\1", _AFTER_OPEN.sub(r"\1", text)))
    return _BEFORE_STOP.sub(r"\1", " ".join(text.split()))


def _variant(match: re.Match[str]) -> str:
    """One of the forms in `-{zh-hans:A; zh-hant:B}-`: the simplified or Cyrillic one, else the first."""
    forms = dict(form.strip().split(":", 1) for form in match[1].rpartition("|")[2].split(";") if ":" in form)
    if not forms:
        return match[1].rpartition("|")[2]
    wanted = (forms[tag] for tag in ("zh-hans", "zh-cn", "sr-ec") if tag in forms)
    return next(wanted, next(iter(forms.values())))
