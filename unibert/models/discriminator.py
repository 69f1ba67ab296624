"""The language discriminator: which language is a document in, judged by the student's last hidden states.

Legend of shapes: R rows, S width, T = R*S, D documents, F features (one a document, or one a token),
H feature width, K hidden width, L languages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from unibert.config import Recipe
from unibert.models.heads import seeded

if TYPE_CHECKING:
    from unibert.data.batches import Batch


Feature = Literal["cls", "mean", "tokens"]


class LanguageDiscriminator(nn.Module):
    """Linear - GELU - Dropout - Linear, as the adversary of UniBERT (arXiv 2503.12608) and DANN (arXiv 1505.07818)."""

    def __init__(self, *, feature_size: int, num_languages: int, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(feature_size, hidden_size)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(hidden_size, num_languages)

    def forward(self, features: Tensor) -> Tensor:
        """Features [F, H] of any float dtype to logits [F, L] in the dtype of the weights."""
        hidden_FK = self.activation(self.inner(features.to(self.inner.weight.dtype)))
        return self.outer(self.dropout(hidden_FK))


def build_discriminator(recipe: Recipe, *, feature_size: int) -> LanguageDiscriminator:
    """The discriminator of a recipe in fp32, in train mode; the same recipe and seed give the same weights."""
    table = recipe.discriminator
    assert table is not None, "the recipe has no [discriminator]"
    with seeded(recipe.train.seed, purpose="discriminator"):
        return LanguageDiscriminator(
            feature_size=feature_size,
            num_languages=len(recipe.languages),
            hidden_size=table.hidden_size,
            dropout=table.dropout,
        )


def features(last_hidden: Tensor, batch: Batch, kind: Feature) -> Tensor:
    """What is judged: [F, H] of last_hidden [R, S, H], one of each document, or of each token.

    Args:
        last_hidden: last hidden states.
        batch: says which token belongs to which document.
        kind: `cls` = the first token's state, `mean` = the mean over all tokens of the document, `tokens` = the state
            of every token that is no padding, in the order of the rows.
    """
    hidden_TH = last_hidden.flatten(0, 1)
    if kind == "cls":
        return hidden_TH.index_select(0, batch.cls_positions)
    if kind == "tokens":
        return hidden_TH.index_select(0, batch.token_positions)
    documents_D1 = torch.arange(batch.cls_positions.numel(), device=last_hidden.device)[:, None]
    # A product with 0/1 adds in a fixed order on every device; a scatter-add does not on a GPU.
    member_DT = batch.document.flatten()[None, :] == documents_D1
    return (member_DT.to(hidden_TH.dtype) @ hidden_TH) / member_DT.sum(1, keepdim=True)


def judged_documents(batch: Batch, kind: Feature) -> Tensor:
    """int64 [F]: the document of each feature."""
    if kind == "tokens":
        return batch.document.flatten()[batch.token_positions]
    return torch.arange(batch.documents, device=batch.language.device)
