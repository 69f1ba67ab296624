"""Which layer of the student learns from which layer of the teacher.

Layers are counted as everywhere here (models/wanted.py): 0 is what the embeddings give, i what layer i gives, and an
attention has the number of its layer, from 1. TinyBERT (arXiv 1909.10351) counts layers from 0 and lets student layer i
take the attention of teacher layer i k + k - 1 and the hidden state of index i k of a list that begins with the
embeddings: both are student layer j and teacher layer j k here, k = teacher's / student's layers.
"""

from __future__ import annotations

from unibert.errors import ConfigError
from unibert.objective_tables import LayerMap


def layer_pairs(layers: LayerMap, *, student: int, teacher: int, name: str, lowest: int) -> tuple[tuple[int, int], ...]:
    """(student's layer, teacher's layer) of each comparison.

    `uniform` is TinyBERT's map; where the teacher's layers are no multiple of the student's, j L_t / L_s is rounded
    down (ours). `skip` is the same without the last, as in PKD (arXiv 1908.09355), whose last layer has the logits.

    Args:
        layers: a map's name, or the pairs.
        student: its number of layers.
        teacher: its number of layers.
        name: of the objective.
        lowest: the first layer there is: 0 for hidden states, 1 for attentions.

    Raises:
        ConfigError: a layer that is not there, a pair named twice, or nothing to compare.
    """
    key = f"objectives.{name}.layers"
    if not isinstance(layers, str):
        return _explicit(layers, key=key, student=student, teacher=teacher, lowest=lowest)
    if layers == "last":
        return ((student, teacher),)
    if student > teacher:
        raise ConfigError(
            f'{key} = "{layers}": the student has {student} layers and the teacher only {teacher}; name pairs '
            f'[[student, teacher], ...], or set {key} = "last"'
        )
    if layers == "bottom":
        return tuple((layer, layer) for layer in range(1, student + 1))
    if layers == "skip" and student == 1:
        raise ConfigError(f'{key} = "skip" leaves the last layer out, and the student has one: set {key} = "last"')
    last = student if layers == "uniform" else student - 1
    return tuple((layer, layer * teacher // student) for layer in range(1, last + 1))


def _explicit(
    pairs: tuple[tuple[int, int], ...], *, key: str, student: int, teacher: int, lowest: int
) -> tuple[tuple[int, int], ...]:
    wrong = [[s, t] for s, t in pairs if not (lowest <= s <= student and lowest <= t <= teacher)]
    if wrong or not pairs or len(set(pairs)) < len(pairs):
        raise ConfigError(
            f"{key} = {[list(pair) for pair in pairs]}: name different pairs of a student's layer {lowest}..{student} "
            f"and a teacher's layer {lowest}..{teacher}"
        )
    return pairs
