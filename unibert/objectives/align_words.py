"""Word alignment: by the place of a word in the English sentence, or by a dictionary.

Letters: D documents, W words, X most words of a document, N pairs of words, H width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unibert.data.batches import Batch
from unibert.models.projections import Straight
from unibert.objective_tables import DictionaryWords
from unibert.objectives.align_sentences import english_first, unit
from unibert.objectives.base import LAST_HIDDEN, MicroStep, Needs, Objective, Setting, Term
from unibert.pair_rules import PIVOT
from unibert.schema import Table


class WordsByIndex(Objective):
    """MMKD's word alignment (Li et al., arXiv 2211.01200): the student's English words find the teacher's.

    Formula: sum over the words j of the pairs' English sides of -log(exp(t_j.s_j) / sum over words k of that side of
    exp(t_j.s_k)); nats; divided by the number of words. t_j is the teacher's last hidden state of word j in the clean
    English text, s_j the student's in the masked text of both sides (batch.joined, as translation_lm reads it; whole
    words are masked with masking.unit = "word"). Raw dot products, no temperature, as in the paper.
    Shapes: t [W, H_t], s [W, H_s], by a learned linear map to H_t where the widths differ (ours). A word is its first
    piece. A teacher with another tokenizer has words of its own, of which those are compared that begin at the same
    character (data/foreign.py). Of the reference's faults none is here: words are counted as words, every sentence's
    loss is added, and the teacher has no dropout. Needs: the student's last hidden state of the joined text, the
    teacher's of the unmasked. Tag: loss/align_words.
    """

    name = "align_words"
    needs = Needs(joined=LAST_HIDDEN, teacher_unmasked=LAST_HIDDEN)

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        self.pivot = setting.recipe.languages.index(PIVOT)

    def module(self) -> nn.Module | None:
        student, teacher = self.setting.student.hidden, self.teacher_sizes.hidden
        return None if student == teacher else Straight(student, teacher)

    def count(self, batch: Batch) -> int:
        return len(self._english(batch)[0])

    def term(self, at: MicroStep) -> Term:
        assert at.joined is not None
        assert at.teacher_unmasked is not None
        assert at.batch.joined is not None
        word_W, document_W = self._english(at.batch)
        theirs_W = word_W if at.batch.foreign is None else at.batch.foreign.word_positions
        teacher_WH = at.teacher_unmasked.last_hidden.flatten(0, 1)[theirs_W].float()
        student_WH = at.joined.last_hidden.flatten(0, 1)[joined_places(at.batch, word_W, document_W)].float()
        if self.name in at.beside:
            student_WH = at.beside[self.name](student_WH)
        if not len(word_W):
            return Term(total=student_WH.sum())
        among_DXH, there_DX, place_W = by_document(student_WH, document_W, documents=at.batch.documents)
        logits_WX = torch.einsum("wh,wxh->wx", teacher_WH, among_DXH[document_W])
        logits_WX = logits_WX.masked_fill(~there_DX[document_W], float("-inf"))
        return Term(total=F.cross_entropy(logits_WX, place_W, reduction="sum"))

    def _english(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(place, document) of each word of the pairs' English sides, [W] each: of those that the teacher has too."""
        if batch.foreign is not None:
            return batch.foreign_words, batch.document.flatten()[batch.foreign_words]
        english_E = english_first(batch, self.pivot)[0][:, 0]
        document_W = batch.document.flatten()[batch.word_positions]
        chosen_W = torch.isin(document_W, english_E)
        return batch.word_positions[chosen_W], document_W[chosen_W]


class WordsByDictionary(Objective):
    """Words that a dictionary knows as translations find each other among the words of the pair's other side.

    Formula, over the N pairs of words (i, j), i a word of the one side and j of the other, u unit states: sum of
    (-log softmax over words k of j's side of u_i.u_k / temperature at j, and the same from j) / 2; nats; divided by N.
    A pair of words counts where neither translates another word of the two sides. The set that is compared is the pair
    itself. Shapes: states [W, H]; a word is its first piece. Needs: the student's last hidden state; dictionaries/
    of the data folder. Tag: loss/align_words. Source: our choice, in the manner of Cao et al. 2020 (arXiv 2002.03518),
    who draw aligned words together by squared distance.
    """

    name = "align_words"

    def __init__(self, table: Table, setting: Setting) -> None:
        super().__init__(table, setting)
        assert isinstance(table, DictionaryWords)
        self.temperature, self.masked = table.temperature, table.reading == "masked"
        self.needs = Needs(**{"student" if self.masked else "student_unmasked": LAST_HIDDEN})

    def count(self, batch: Batch) -> int:
        return len(batch.word_pairs)

    def term(self, at: MicroStep) -> Term:
        output = at.student if self.masked else at.student_unmasked
        assert output is not None
        batch = at.batch
        unit_WH = unit(output.last_hidden.flatten(0, 1)[batch.word_positions].float())
        if not len(batch.word_pairs):
            return Term(total=unit_WH.sum() * 0)
        document_W = batch.document.flatten()[batch.word_positions]
        among_DXH, there_DX, place_W = by_document(unit_WH, document_W, documents=batch.documents)
        total = unit_WH.sum() * 0
        for own_N, other_N in (batch.word_pairs.unbind(1), batch.word_pairs.flip(1).unbind(1)):
            side_N = document_W[other_N]
            cosines_NX = torch.einsum("nh,nxh->nx", unit_WH[own_N], among_DXH[side_N]) / self.temperature
            cosines_NX = cosines_NX.masked_fill(~there_DX[side_N], float("-inf"))
            total = total + F.cross_entropy(cosines_NX, place_W[other_N], reduction="sum") / 2
        return Term(total=total)


def joined_places(batch: Batch, place_W: Tensor, document_W: Tensor) -> Tensor:
    """Where tokens of the pairs' sides stand in the flattened rows of batch.joined, [W].

    Args:
        batch: with its joined view.
        place_W: where they stand in the batch's own flattened rows; no cls.
        document_W: the documents they belong to, all of them sides of pairs.
    """
    assert batch.joined is not None
    start_D = torch.zeros(batch.documents, dtype=torch.int64, device=place_W.device)
    start_D[batch.pairs] = batch.joined.side_starts
    return start_D[document_W] + place_W - batch.cls_positions[document_W]


def by_document(values_WH: Tensor, document_W: Tensor, *, documents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values in the order of their documents to (padded [D, X, H], which are there bool [D, X], place of each [W])."""
    count_D = torch.bincount(document_W, minlength=documents)
    first_D = count_D.cumsum(0) - count_D
    place_W = torch.arange(len(document_W), device=document_W.device) - first_D[document_W]
    padded_DXH = values_WH.new_zeros(documents, int(count_D.max()), values_WH.shape[1])
    padded_DXH = padded_DXH.index_put((document_W, place_W), values_WH)
    there_DX = torch.arange(padded_DXH.shape[1], device=document_W.device) < count_D[:, None]
    return padded_DXH, there_DX, place_W
