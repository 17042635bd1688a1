"""Which side each partition of a snapshot is on, where the split goes by time: train, then validation, then test."""

from collections.abc import Sequence

from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Split

TRAIN, VALIDATION, TEST = SIDES = ("train", "validation", "test")
GAP = "gap"
"""On no side: the labels of these partitions are made of days of the next side."""


def sides_of_partitions(partitions: Sequence[str], split: Split, gap: int = 0) -> dict[str, str]:
    """Partition to side. The last `gap` partitions before validation and before test are on none.

    Raises `DataError` where a side would be empty.
    """
    keys = sorted(partitions)
    first_validation, first_test = _by_day(keys, split, gap) if split.test_from else _by_share(keys, split, gap)
    sides = {}
    for place, key in enumerate(keys):
        if place >= first_test:
            sides[key] = TEST
        elif place >= first_validation:
            sides[key] = VALIDATION if place < first_test - gap else GAP
        else:
            sides[key] = TRAIN if place < first_validation - gap else GAP
    return sides


def _by_share(keys: list[str], split: Split, gap: int) -> tuple[int, int]:
    """Places of the first partitions of validation and of test. The shares are those of the partitions that are not left out."""
    n = len(keys) - 2 * gap
    if n < 3:
        left_out = f" beside the {gap} left out before validation and before test (split.gap, or the label's horizon)" if gap else ""
        raise DataError(
            f"a split by time needs three partitions or more (train, validation, test){left_out}, and the window has {len(keys)}; "
            "run more partitions of the data pipeline, or raise training.window"
        )
    n_test, n_validation = max(1, round(split.test * n)), max(1, round(split.validation * n))
    n_test, n_validation = (1, 1) if n_test + n_validation >= n else (n_test, n_validation)
    first_test = len(keys) - n_test
    return first_test - gap - n_validation, first_test


def _by_day(keys: list[str], split: Split, gap: int) -> tuple[int, int]:
    """The same, where the settings say the days."""
    # A key begins with its day, so keys and days sort alike.
    first_validation, first_test = (sum(key < str(day) for key in keys) for day in (split.validation_from, split.test_from))
    if first_validation <= gap or first_test - first_validation <= gap or first_test == len(keys):
        raise DataError(
            f"split.validation_from {split.validation_from} and split.test_from {split.test_from} leave a side of the window "
            f"{keys[0]} … {keys[-1]} empty"
            + (f" (the last {gap} before each are left out)" if gap else "")
            + "; move them, or raise training.window"
        )
    return first_validation, first_test
