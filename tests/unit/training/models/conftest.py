"""Making and training models small enough for a test."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def fit() -> Callable[..., list[float]]:
    """Returns `fit(model, arrays, labels, steps=150, objective=…)`: full-batch training; the mean loss before each step."""

    def train(model, arrays, labels, *, steps=150, objective=None, learning_rate=0.01) -> list[float]:
        import torch

        from pipelines_lib.training.objective import Objective

        objective = objective or Objective(("no", "yes"))
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        labels = torch.from_numpy(np.asarray(labels))
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        losses = []
        model.train()
        for _ in range(steps):
            loss = objective.loss(model(**inputs), labels).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        return losses

    return train
