"""Labels from labelling functions: who votes for what, and what the votes make of a row.

Rows with the same votes get the same label, so what is aggregated is the few combinations of votes that occur and how often
each does, never row by row. That also makes the result independent of the rows' order and of how they are cut into batches.
"""

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import JsonValue

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import UseCase
from pipelines_lib.use_case.label import Rules

LabellingFunction = Callable[[pa.Table], Sequence[str | None] | pa.Array]
"""A function of `hooks.py`: clean rows to a class, or None, for each."""

_ABSTAINS = -1
_FITTED_TASKS = 10_000
_ITERATIONS = 200
_MOVED = 1e-5
"""Steps end when no probability moves further."""
_LEAST = 1e-10
"""No probability is smaller, as in crowd-kit: what was never seen is not impossible."""
_EQUAL = 1e-9
"""Confidences closer than this are a tie: sums of floats in another order differ by less."""


@dataclass(frozen=True)
class Votes:
    """The votes of a partition, as combinations."""

    combinations: NDArray[np.int16]
    """[C, F]: class index that each function voted for, or -1; sorted, each once."""
    counts: NDArray[np.int64]
    """[C]: rows with the combination."""
    of_rows: NDArray[np.int32]
    """[n]: each row's combination, in the rows' order."""


@dataclass(frozen=True)
class Aggregated:
    """What each combination of votes makes of a row."""

    labels: pa.Array
    """[C] class, or null."""
    confidence: NDArray[np.float64]
    """[C]: of the likeliest class, whether it became the label or not; NaN where nobody voted."""
    accuracy: list[float] | None = None
    """[F]: estimated probability that a function is right when it speaks; Dawid–Skene alone."""


def vote(batches: Iterable[pa.Table], use_case: UseCase, functions: Mapping[str, LabellingFunction]) -> Votes:
    """Ask every function about every row. Raises `ConfigError` where one fails or returns something else than classes."""
    rules = _rules(use_case)
    known: dict[tuple[int, ...], int] = {}
    of_rows = [np.empty(0, np.int32)]
    for rows in batches:
        votes = np.stack([votes_of(name, functions[name], rows, rules) for name in rules.functions], axis=1)
        distinct, inverse = np.unique(votes, axis=0, return_inverse=True)
        numbers = np.array([known.setdefault(tuple(row), len(known)) for row in distinct.tolist()], np.int32)
        of_rows.append(numbers[inverse.reshape(-1)])
    seen = np.concatenate(of_rows)
    combinations = np.array(list(known), np.int16).reshape(len(known), len(rules.functions))
    order = np.lexsort(combinations.T[::-1])
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    of_rows_sorted = place[seen] if len(seen) else seen
    return Votes(combinations[order], np.bincount(of_rows_sorted, minlength=len(order)).astype(np.int64), of_rows_sorted)


def aggregate(votes: Votes, use_case: UseCase) -> Aggregated:
    """The label and the confidence of each combination."""
    rules = _rules(use_case)
    shares, accuracy = _dawid_skene(votes, rules) if rules.aggregate == "dawid_skene" else (_vote_shares(votes, rules), None)
    n_votes = (votes.combinations != _ABSTAINS).sum(axis=1)
    if not len(n_votes):
        return Aggregated(pa.array([], pa.string()), np.empty(0), accuracy)
    ranked = np.sort(shares, axis=1)
    best, second = ranked[:, -1], ranked[:, -2]
    given = (n_votes >= rules.min_votes) & (best >= rules.min_agreement) & (best - second > _EQUAL)
    classes = pa.array(rules.classes, pa.string()).take(pa.array(shares.argmax(axis=1)))
    labels = pc.if_else(pa.array(given), classes, pa.scalar(None, pa.string()))
    return Aggregated(labels, np.where(n_votes > 0, best, np.nan), accuracy)


def voted(batches: Iterable[pa.Table], votes: Votes, aggregated: Aggregated) -> Iterator[pa.Table]:
    """The batches that were voted on, in the same order, with `label` and `label_confidence`."""
    done = 0
    confidence = pa.array(aggregated.confidence, pa.float64(), from_pandas=True)
    for rows in batches:
        mine = pa.array(votes.of_rows[done : done + rows.num_rows])
        done += rows.num_rows
        yield rows.append_column("label", aggregated.labels.take(mine)).append_column("label_confidence", confidence.take(mine))


def figures(votes: Votes, aggregated: Aggregated, use_case: UseCase) -> dict[str, JsonValue]:
    """Of each function, as shares of all rows: where it speaks, where another speaks too, where another says otherwise."""
    rules = _rules(use_case)
    n_rows = max(1, int(votes.counts.sum()))
    speaks = votes.combinations != _ABSTAINS
    of: dict[str, dict[str, float]] = {}
    for place, name in enumerate(rules.functions):
        mine = votes.combinations[:, [place]]
        others = np.delete(votes.combinations, place, axis=1)
        overlaps = speaks[:, place] & (others != _ABSTAINS).any(axis=1)
        conflicts = speaks[:, place] & ((others != _ABSTAINS) & (others != mine)).any(axis=1)
        shares = {"coverage": speaks[:, place], "overlaps": overlaps, "conflicts": conflicts}
        of[name] = {key: round(float(votes.counts[which].sum()) / n_rows, 4) for key, which in shares.items()} | (
            {"estimated_accuracy": round(aggregated.accuracy[place], 4)} if aggregated.accuracy and speaks[:, place].any() else {}
        )
    return {name: {**shares} for name, shares in of.items()}


def _rules(use_case: UseCase) -> Rules:
    assert use_case.label.rules is not None
    return use_case.label.rules


def votes_of(name: str, function: LabellingFunction, rows: pa.Table, rules: Rules) -> NDArray[np.int16]:
    """[n]: index of the class that `function` gives each row, or -1. Raises `ConfigError` where it fails to."""
    where = function.__code__.co_filename if hasattr(function, "__code__") else "hooks.py"
    try:
        said = function(rows)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == where), None)
        # What a user's function says may hold a value of the data, so only the kind of the error is told.
        raise ConfigError(
            f"{where}:{line}: labelling function {name} failed with {type(error).__name__}; it must return a class or None for each row, so mend it"
        ) from error
    if not hasattr(said, "__len__"):
        raise ConfigError(
            f"{where}: labelling function {name} returned {type(said).__name__} and not a vote for each row; return a class or None for each row "
            "(a `return` may be missing)"
        )
    if len(said) != rows.num_rows:
        raise ConfigError(
            f"{where}: labelling function {name} returned {len(said)} votes for {rows.num_rows} rows; return a class or None for each row"
        )
    classes = pa.array(rules.classes, pa.string())
    try:
        texts = (
            said.combine_chunks()
            if isinstance(said, pa.ChunkedArray)
            else said
            if isinstance(said, pa.Array)
            else pa.array(said, pa.string())
        )
        found = pc.index_in(texts.cast(pa.string()), value_set=classes)
        strange = pc.sum(pc.and_(pc.is_null(found), pc.is_valid(texts))).as_py() or 0
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as error:
        raise ConfigError(
            f"{where}: labelling function {name} returned something else than texts; return a class or None for each row"
        ) from error
    if strange:
        raise ConfigError(
            f"{where}: labelling function {name} returned a class that label.rules.classes does not list for {strange} of {rows.num_rows} rows; "
            f"the classes are {', '.join(rules.classes)}. Mend the function, or add the class"
        )
    votes: NDArray[np.int16] = pc.fill_null(found, _ABSTAINS).to_numpy().astype(np.int16)
    return votes


def _vote_shares(votes: Votes, rules: Rules) -> NDArray[np.float64]:
    """[C, K]: share of the votes that each class has."""
    counts = np.stack([(votes.combinations == place).sum(axis=1) for place in range(len(rules.classes))], axis=1)
    shares: NDArray[np.float64] = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    return shares


def _dawid_skene(votes: Votes, rules: Rules) -> tuple[NDArray[np.float64], list[float]]:
    """([C, K] probability of each class, [F] probability that a function is right when it speaks).

    To be silent is an answer of its own. Most functions know one class alone (a word that angry people use), and whether
    such a one speaks is all that it says; a model of what is said where something is said would learn nothing from it.

    Crowd-kit takes one answer a line and no weights, so the model is fitted on rows that stand for the partition: each combination as
    often as it occurs or, where there are more than 10 000 rows, in proportion. Then every combination, also one too rare to
    be among them, gets its probabilities from the fitted rates.
    """
    n_functions, n_classes = len(rules.functions), len(rules.classes)
    said = np.where(votes.combinations == _ABSTAINS, n_classes, votes.combinations).astype(np.int64)
    priors, rates = np.full(n_classes, 1 / n_classes), np.full((n_functions, n_classes + 1, n_classes), 1 / (n_classes + 1))
    if len(said):
        weights = _representatives(votes.counts, _FITTED_TASKS)
        priors, rates = _fitted(np.repeat(said, weights, axis=0), np.repeat(_vote_shares(votes, rules), weights, axis=0))
    log_likelihood = np.tile(np.log(priors), (len(said), 1))
    for place in range(n_functions):
        log_likelihood += np.log(rates[place])[said[:, place]]
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True, initial=-np.inf))
    right = [priors @ np.diagonal(rates[place]) for place in range(n_functions)]
    speaks = [priors @ rates[place][:n_classes].sum(axis=0) for place in range(n_functions)]
    return likelihood / likelihood.sum(axis=1, keepdims=True), [float(r / s) for r, s in zip(right, speaks, strict=True)]


def _representatives(counts: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    """How often each combination stands among at most `at_most` rows: as in all rows, with the largest remainders rounded up."""
    total = int(counts.sum())
    if total <= at_most:
        return counts
    exact = counts * (at_most / total)
    rounded: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    rounded[np.argsort(rounded - exact, kind="stable")[: at_most - int(rounded.sum())]] += 1
    return rounded


def _fitted(said: NDArray[np.int64], shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], Any]:
    """([K] priors, [F, K + 1, K] probability of each answer where a class is true: [f, answer, true]), from [n, F] answers.

    The EM steps are crowd-kit's. Its `fit` would take silence for a class to be found as well, so the start and the loop are here:
    the classes' shares of the votes, [n, K], and steps until nothing moves.
    """
    import pandas as pd  # noqa: PLC0415 - half a second, for this alone
    from crowdkit.aggregation import DawidSkene  # noqa: PLC0415 - four seconds: it brings scikit-learn and NLTK

    (n, n_functions), n_classes = said.shape, shares.shape[1]
    answers = pd.DataFrame(
        {"task": np.repeat(np.arange(n), n_functions), "worker": np.tile(np.arange(n_functions), n), "label": said.ravel()}
    )
    # Where nobody spoke every class is as likely, to begin with.
    start = np.where(shares.sum(axis=1, keepdims=True) > 0, shares, 1 / n_classes)
    probabilities = pd.DataFrame(start, pd.RangeIndex(n, name="task"), pd.RangeIndex(n_classes, name="label"))
    with warnings.catch_warnings():
        # Crowd-kit 1.4 calls pandas in ways that pandas 4 will refuse.
        warnings.simplefilter("ignore", DeprecationWarning)
        for _ in range(_ITERATIONS):
            priors, rates = probabilities.mean(), DawidSkene._m_step(answers, probabilities)
            before, probabilities = probabilities, DawidSkene._e_step(answers, priors, rates)
            if np.abs(probabilities.to_numpy() - before.to_numpy()).max() < _MOVED:
                break
    index = pd.MultiIndex.from_product([range(n_functions), range(n_classes + 1)])
    every = rates.reindex(index=index, fill_value=0.0).to_numpy().reshape(n_functions, n_classes + 1, n_classes)
    return np.maximum(priors.to_numpy(), _LEAST), np.maximum(every, _LEAST)
