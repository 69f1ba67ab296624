"""Rows of results, written by hand."""

import numpy as np

from unibert.evaluate.results_file import ResultRow


def row(model, language, values, *, task="nli", seed=0, data="d", purpose="test"):
    return ResultRow(
        key=f"{model}{task}{language}{seed}{purpose}",
        purpose=purpose,
        model=model,
        task=task,
        set=task,
        split="test",
        language=language,
        seed=seed,
        way="zero-shot",
        source="en",
        metric="accuracy",
        kind="mean",
        values={"accuracy": float(np.mean(values))},
        rows=[[float(value)] for value in values],
        ids="same",
        data=data,
        learning_rate=2e-5,
        parameters=10,
        parameters_without_embeddings=5,
        seconds=1.0,
    )
