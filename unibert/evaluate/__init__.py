"""Evaluation of Hugging Face folders on held-out text: masked prediction, retrieval, language probe, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unibert.evaluate.suite import run as run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    """`unibert.evaluate.run`, imported when first asked for, since it needs torch."""
    if name == "run":
        from unibert.evaluate.suite import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
