"""The sizes that `sluice new` proposes."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.scaffold.sizes import Sizes, sizes
from pipelines_lib.use_case import Model, Training

TASKS = st.sampled_from(["binary", "multiclass", "regression"])


def proposed(n_rows: int, has_text: bool, task: str, n_numbers: int = 10) -> tuple[Sizes, Training]:
    size = sizes(n_rows=n_rows, n_numbers=n_numbers, has_text=has_text, task=task)
    model = {name: getattr(size, name) for name in Model.model_fields if hasattr(size, name)}
    own = {name: getattr(size, name) for name in Training.model_fields if hasattr(size, name)}
    return size, Training.model_validate({**own, "model": model})


@given(st.integers(1, 10**8), st.booleans(), TASKS, st.integers(0, 10**4))
def test_what_is_proposed_is_accepted(n_rows, has_text, task, n_numbers):
    _, training = proposed(n_rows, has_text, task, n_numbers)
    assert training.patience < training.epochs
    assert training.batch_size <= max(32, n_rows)


@given(st.integers(1, 10**7), st.booleans(), TASKS)
def test_more_rows_ask_for_no_more_passes_and_no_narrower_model(n_rows, has_text, task):
    (_, few), (_, many) = proposed(n_rows, has_text, task), proposed(2 * n_rows, has_text, task)
    assert many.epochs <= few.epochs
    assert many.model.hidden >= few.model.hidden
    assert many.model.pieces >= few.model.pieces
