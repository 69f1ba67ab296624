"""What the model sees: masked documents of every language, decoded, and how a micro-batch is packed."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from unibert.data.batches import Batch, Stream, read_words
from unibert.data.masking import mask
from unibert.data.pairs import PairSet
from unibert.data.shards import ShardSet
from unibert.data.words import WordPieces
from unibert.languages import LANGUAGES
from unibert.plan import run_shares
from unibert.schema import Recipe

# Isolates: a right-to-left text keeps its own order inside a left-to-right line (Unicode UAX #9).
ISOLATE, END_ISOLATE = "\u2068", "\u2069"
MASKED, RANDOM, KEPT = "bold red", "bold yellow", "bold green"


def show(recipe: Recipe, *, samples: int = 2, console: Console | None = None) -> None:
    """Print `samples` masked documents of every language with their targets, and one packed micro-batch in numbers.

    Raises:
        DataError: the shards are missing or damaged.
    """
    console = console or Console()
    shards = ShardSet.open(recipe.data.folder / "shards", languages=recipe.languages)
    words = read_words(recipe, shards)
    tokenizer = Tokenizer.from_file(str(recipe.data.folder / "tokenizer" / "tokenizer.json"))
    shares = run_shares(recipe, samples=shards.samples_per_language, tokens=shards.tokens_per_language)
    legend = [("[_]", MASKED), " masked  ", ("[a~]", RANDOM), " random  ", ("[a]", KEPT), " shown as it is"]
    console.print(Text.assemble("targets:  ", *legend))
    for language, code in enumerate(shards.languages):
        facts = LANGUAGES.get(code)
        named = f"{facts.name}, {facts.script}, " if facts else ""
        console.print(Text(f"\n{code}  {named}{shares[language]:.2%} of the stream", style="bold"))
        available = int(shards.samples_per_language[language])
        for number in range(min(samples, available)):
            index = number * available // samples
            for line in view(recipe, shards, tokenizer, words, language=language, index=index):
                console.print(line)
    stream = Stream(recipe, shards, rank=0, world=1)
    if stream.mixture.pairs is not None:
        show_pairs(stream.mixture.pairs, tokenizer, samples=samples, console=console)
    console.print(Text("\n" + packing(stream.step(0)[0])))


def show_pairs(pairs: PairSet, tokenizer: Tokenizer, *, samples: int, console: Console) -> None:
    """`samples` translation pairs of every language pair."""
    counts = pairs.pairs_per_language_pair.tolist()
    for pair, (sides, available) in enumerate(zip(pairs.language_pairs, counts, strict=True)):
        codes = [pairs.languages[side] for side in sides]
        console.print(Text(f"\n{' - '.join(codes)}  {available:,} translation pairs", style="bold"))
        for number in range(min(samples, available)):
            both = pairs.sample(pair, number * available // samples)
            for code, ids in zip(codes, both, strict=True):
                console.print(Text(f"  {code}  {ISOLATE}{tokenizer.decode(ids.tolist())}{END_ISOLATE}"))


def view(
    recipe: Recipe, shards: ShardSet, tokenizer: Tokenizer, words: WordPieces | None, *, language: int, index: int
) -> tuple[Text, Text]:
    """(the document as shown to the model in its first epoch, its targets)."""
    ids = shards.sample(language, index)
    shown, positions, targets = mask(
        ids,
        sample_id=int(shards.document_id(np.array([language]), np.array([index]))[0]),
        epoch=0,
        seed=recipe.train.seed,
        masking=recipe.masking,
        special=shards.special,
        vocabulary_size=shards.vocabulary_size,
        words=words,
    )
    place_of = dict(zip(positions.tolist(), targets.tolist(), strict=True))
    text = Text("  " + ISOLATE)
    for place, token in enumerate(shown.tolist()):
        # The space before the first word is the tokenizer's, not the text's.
        piece = _readable(tokenizer, token).lstrip() if place == 1 else _readable(tokenizer, token)
        if place not in place_of:
            text.append("" if token in (shards.special.cls, shards.special.sep) else piece)
        elif token == shards.special.mask:
            text.append(_around(_readable(tokenizer, place_of[place]), "_", ""), style=MASKED)
        else:
            random = token != place_of[place]
            text.append(_around(piece, piece.strip(), "~" if random else ""), style=RANDOM if random else KEPT)
    wanted = "  ".join(ISOLATE + (_readable(tokenizer, t).strip() or "␣") + END_ISOLATE for t in targets.tolist())
    return text.append(END_ISOLATE), Text(f"    {len(targets)} of {len(ids)}: {wanted}", style="dim")


def packing(batch: Batch) -> str:
    """One micro-batch in numbers."""
    rows, width = batch.input_ids.shape
    return (
        f"a micro-batch: {batch.documents} documents in {rows} rows of {width}, {batch.tokens} tokens, "
        f"{batch.padding_fraction:.1%} padding, {batch.targets} targets ({batch.targets / batch.tokens:.1%})"
    )


def _readable(tokenizer: Tokenizer, token: int) -> str:
    return (tokenizer.id_to_token(token) or "").replace("▁", " ")


def _around(piece: str, inside: str, mark: str) -> str:
    """The piece's leading space, then a bracket that stays visible without colour."""
    return f"{' ' if piece.startswith(' ') else ''}[{inside}{mark}]"
