"""The labelled tasks, one file each: readers of published formats, the head a task needs, and its metric."""

from __future__ import annotations

from unibert.evaluate.tasks.base import Task
from unibert.evaluate.tasks.conversational_qa import ConversationalQa
from unibert.evaluate.tasks.ner import Ner
from unibert.evaluate.tasks.nli import Nli
from unibert.evaluate.tasks.qa import Qa
from unibert.evaluate.tasks.retrieval import Retrieval
from unibert.evaluate.tasks.sts import Sts
from unibert.evaluate.tasks.texts import LanguageProbe, Masked
from unibert.evaluate.tasks.words import WordTranslation

_ALL = (Ner(), Nli(), Qa(), ConversationalQa(), Sts(), Retrieval(), LanguageProbe(), Masked(), WordTranslation())
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""name -> task."""

__all__ = ["TASKS", "Task"]
