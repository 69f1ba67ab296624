"""`unibert entities`: a model that has entities among its tokens, for whoever loads it by AutoModel and AutoTokenizer.

The vectors' file is in word2vec's text format, with words and entities in one space as Wikipedia2Vec trains them: a
row that begins with ENTITY/ is an entity's, `ENTITY/Jean_Marais`. E-BERT's map (entities.py) is fitted on the words
that are pieces too; each entity becomes a token of that name, whose row is its mapped vector.

The tokenizer's normaliser writes the tokens into plain text, wherever an entity's name stands by itself:
`replace`  Jean Marais  ->  ENTITY/Jean_Marais
`concat`   Jean Marais  ->  ENTITY/Jean_Marais / Jean Marais
`average`  as replace, and the row is the mean of the mapped vector and of the mean embedding of the name's pieces.
Text in which an entity linker wrote ENTITY/Jean_Marais is read as such. In concat a name within a longer one is written
out as well.

The papers' mentions come from a linker; finding them by their names is our choice. It takes about a millisecond a text
and thousand entities.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import regex
import torch
from tokenizers import Regex, normalizers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as AnyTokenizer

from unibert.data.lines import say, write_json
from unibert.errors import ConfigError, DataError
from unibert.models.entities import Mode, add_tokens, map_vectors, read_vectors, shared_pieces, whole_words
from unibert.models.folders import newest_export, quiet_hf, replaced_folder, save_hf

PREFIX = "ENTITY/"
FACTS = "entities.json"
RUN_TOGETHER = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
"""Scripts that leave no space between words: a name in them need not stand by itself."""


def write_with_entities(
    model: Path, *, vectors: Path, output: Path, mode: Mode = "replace", only: Path | None = None, ridge: float = 0.0
) -> dict[str, Any]:
    """Write `output`: the model and tokenizer with the vectors' entities; returns what entities.json says.

    Args:
        model: Hugging Face folder, or run folder whose newest export is meant.
        vectors: of words and entities.
        output: folder that is not there yet.
        mode: how an entity takes part where its name stands in a text.
        only: names of the entities that are wanted, a line each; all when None.
        ridge: of the map, as in `fit_map`.

    Raises:
        ConfigError: the output is there, or the model has such a token already.
        DataError: no model, vectors that are damaged or have no entities, or too few words that are pieces too.
    """
    if output.exists():
        raise ConfigError(f"{output} is there already: name another folder, or remove it")
    source = newest_export(model)
    hf, tokenizer = _load(source)
    wanted, words = _wanted(only), whole_words(tokenizer)
    found = read_vectors(vectors, keep=lambda name: _is_wanted(name, wanted) or name in words)
    places = [place for place, name in enumerate(found.names) if name.startswith(PREFIX)]
    names = [found.names[place] for place in places]
    if missing := sorted(wanted - set(names)) if wanted is not None else []:
        raise DataError(f"{only}: {len(missing)} of its entities are not in {vectors}, the first is {missing[0]}")
    if not names:
        raise DataError(f"{vectors}: no row begins with {PREFIX}: name entities so, as Wikipedia2Vec does")
    if nameless := [name for name in names if not name_of(name)]:
        raise DataError(f"{vectors}: {nameless[0]!r} has no name that a text could have: take its row out")
    try:
        rows_NH = map_vectors(found, hf, tokenizer, ridge=ridge)[places]
    except DataError as error:
        raise DataError(f"{vectors}: {error}") from None
    if mode == "average":
        rows_NH = (rows_NH + _of_pieces(names, hf, tokenizer)) / 2
    write_names(tokenizer, names, mode=mode)
    add_tokens(hf, tokenizer, names=names, rows_NH=rows_NH)
    facts = {"mode": mode, "entities": len(names), "ridge": ridge, "vectors": vectors.name}
    facts |= {"shared_words": len(shared_pieces(found.names, tokenizer)), "model": source.name}
    _write(output, source=source, hf=hf, tokenizer=tokenizer, facts=facts)
    say(f"entities: {len(names)} in {output}; the map was fitted on {facts['shared_words']} words that are pieces too")
    return facts


def name_of(entity: str) -> str:
    """An entity's name as text has it: ENTITY/Jean_Marais is Jean Marais."""
    return entity.removeprefix(PREFIX).replace("_", " ").strip()


def write_names(tokenizer: Any, entities: Sequence[str], *, mode: Mode) -> None:
    """Let a tokenizer's normaliser write entities where their names stand, the longest name first, in place."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ConfigError(f"{type(tokenizer).__name__} has no normaliser: a tokenizer.json is needed beside the model")
    rules = [_rule(entity, mode=mode) for entity in sorted(entities, key=lambda entity: (-len(entity), entity))]
    own = tokenizer.backend_tokenizer.normalizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([*rules, *([own] if own is not None else [])])


def _rule(entity: str, *, mode: Mode) -> normalizers.Replace:
    name = name_of(entity)
    bound = "" if RUN_TOGETHER.search(name) else r"\w"
    # Nothing of a longer word, of an entity's token, or of what concat wrote before.
    text = rf"(?<![{bound}/_])(?<!{regex.escape(entity)} / ){regex.escape(name)}(?![{bound}_])"
    return normalizers.Replace(Regex(text), f"{entity} / {name}" if mode == "concat" else entity)


def _load(folder: Path) -> tuple[PreTrainedModel, AnyTokenizer]:
    """A model, with its masked-LM head where it has one, and its tokenizer."""
    with quiet_hf():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        masked = any(name.endswith("ForMaskedLM") for name in config.architectures or ())
        kind: Any = AutoModelForMaskedLM if masked else AutoModel
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval(), tokenizer
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: cannot be loaded: {error}") from error


def _wanted(only: Path | None) -> set[str] | None:
    if only is None:
        return None
    try:
        lines = only.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{only}: cannot be read: {error}") from error
    return {PREFIX + line.strip().removeprefix(PREFIX).replace(" ", "_") for line in lines if line.strip()}


def _is_wanted(name: str, wanted: set[str] | None) -> bool:
    return name.startswith(PREFIX) and (wanted is None or name in wanted)


def _of_pieces(entities: Sequence[str], hf: PreTrainedModel, tokenizer: Any) -> Tensor:
    """[N, H]: of each entity the mean embedding of its name's pieces."""
    table: Any = hf.get_input_embeddings()
    ids = tokenizer([name_of(entity) for entity in entities], add_special_tokens=False)["input_ids"]
    return torch.stack([table.weight.detach()[own].mean(0) for own in ids])


def _write(output: Path, *, source: Path, hf: PreTrainedModel, tokenizer: AnyTokenizer, facts: dict[str, Any]) -> None:
    with replaced_folder(output) as new:
        with quiet_hf():
            tokenizer.save_pretrained(new)
        save_hf(hf, new)
        write_json(new / FACTS, facts)
        card = source / "README.md"
        before = card.read_text(encoding="utf-8") if card.is_file() else f"# {output.name}\n"
        (new / "README.md").write_text(before.rstrip() + "\n\n" + "\n".join(_card(facts)) + "\n", encoding="utf-8")


def _card(facts: dict[str, Any]) -> Iterator[str]:
    yield "## Entities\n"
    yield (
        f"{facts['entities']} entities are tokens (`{PREFIX}...`), whose embeddings are vectors mapped to the word "
        "pieces by E-BERT's least-squares map (Poerner et al. 2020, arXiv 1911.03681), fitted on "
        f"{facts['shared_words']} words."
    )
    yield f"\n```json\n{json.dumps(facts, ensure_ascii=False, indent=1)}\n```"
