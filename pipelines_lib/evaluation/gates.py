"""The gates between a trained model and service: pure functions from figures to verdicts with reasons.

The comparison with the champion ends in one of three verdicts (`standing`):

- *better*: proven. The whole interval of the difference lies above 0.
- *not worse*: it looks at least as good on the hold-out (difference ≥ 0), or it looks worse, but provably by no more than `gate.margin`: the
  lower end of the interval is ≥ -margin (a test of non-inferiority).
- *worse*: it looks worse, and may be so by more than the margin.

`gate.promote: not_worse` lets the first two serve: of two that look equal, the one with the fresher data. `promote: better` asks for the first.

What errors this makes, with S the standard error of the difference, and confidence 0.95. For `better`:

- A challenger exactly as good as the champion is called better with chance 2.5 %, whatever the margin; a worse one less often.
- One better by 2.8 S is called so with chance 80 %, one better by 4 S with 98 %.

For `not_worse`:

- A challenger exactly as good as the champion is held with chance 1/2 at margin 0, and with less than 2.5 % once the
  margin is above 4 S. Holding it costs nothing: the champion, as good, goes on serving.
- A challenger worse by just the margin passes with chance max(2.5 %, Φ(-margin / S)): 2.5 % once the margin is above
  2 S. On a hold-out so small that the margin is below S, luck can carry it past the champion (16 % at margin = S);
  asking for the lower end alone would keep that at 2.5 %, and would also hold 97.5 % of the equally good at margin 0, so
  that no retraining on a small hold-out would ever serve.
- A challenger worse by three S or more passes with chance 0.1 % at margin 0.
"""

from typing import Literal

from pipelines_lib.contracts import Contract, GateResult
from pipelines_lib.evaluation.compare import Comparison
from pipelines_lib.use_case import HIGHER_IS_BETTER, Gate

Standing = Literal["better", "not worse", "worse"]


class Evidence(Contract):
    """What the gates look at; an evaluation leaves it behind as JSON."""

    n_rows: int
    """Rows of the hold-out."""
    metric: float | None
    """The challenger's; None where the hold-out leaves it undefined."""
    comparison: Comparison | None
    """None without a champion, or with one that can't be compared."""
    champion: int | None
    """The champion's version; None where there is none."""
    incomparable: str | None
    """Why the champion can't be scored on this hold-out, where it can't."""
    champion_end: str | None
    """The newest partition that the champion was trained on; None where its package does not open."""


def judge(settings: Gate, evidence: Evidence, *, partition_key: str, force: bool) -> list[GateResult]:
    """Every gate's verdict, in the order of the report, for a run of `partition_key`.

    `force`: a person lets the run replace a champion that it can't be compared with, or that saw newer data.
    """
    return [
        _enough_rows(settings, evidence),
        _floor(settings, evidence),
        _champion(settings, evidence, force),
        _old_partition(evidence, partition_key, force),
    ]


def held(results: list[GateResult]) -> str | None:
    """Why the model is held, all reasons in one sentence; None where every gate passes."""
    reasons = [f"{result.gate}: {result.reason}" for result in results if result.verdict == "hold"]
    return "; ".join(reasons) or None


def _enough_rows(settings: Gate, evidence: Evidence) -> GateResult:
    enough = evidence.n_rows >= settings.min_rows
    return _result(
        "rows", enough, evidence.n_rows, settings.min_rows, f"{evidence.n_rows} rows in the hold-out, {settings.min_rows} needed"
    )


def _floor(settings: Gate, evidence: Evidence) -> GateResult:
    if evidence.metric is None:
        return _result(
            "floor", False, None, settings.floor, f"{settings.metric} is undefined: the hold-out shows one class; widen training.window"
        )
    higher = HIGHER_IS_BETTER[settings.metric]
    passes = evidence.metric >= settings.floor if higher else evidence.metric <= settings.floor
    bound = f"at {'least' if higher else 'most'} {settings.floor:g}"
    return _result("floor", passes, evidence.metric, settings.floor, f"{settings.metric} {evidence.metric:.4f}, and it must be {bound}")


def _champion(settings: Gate, evidence: Evidence, force: bool) -> GateResult:
    bound = -settings.margin if settings.promote == "not_worse" else 0.0
    if evidence.champion is None:
        return _result("champion", True, None, bound, "no champion serves yet")
    if evidence.comparison is None:
        why = f"version {evidence.champion} can't be compared: {evidence.incomparable}"
        return _result("champion", force, None, bound, f"{why}; {'forced' if force else 'run again with `force` to replace it'}")
    verdict = standing(evidence.comparison, settings.margin)
    passes = verdict == "better" or (verdict == "not worse" and settings.promote == "not_worse")
    return _result("champion", passes, evidence.comparison.difference, bound, _compared(settings, evidence, evidence.comparison))


def standing(comparison: Comparison, margin: float) -> Standing:
    """What the comparison says of the challenger; the module's text has the error rates."""
    if comparison.lower is not None and comparison.lower > 0:
        return "better"
    if comparison.difference >= 0 or (comparison.lower is not None and comparison.lower >= -margin):
        return "not worse"
    return "worse"


def _compared(settings: Gate, evidence: Evidence, comparison: Comparison) -> str:
    size = f"{standing(comparison, settings.margin)}: {abs(comparison.difference):.4f} {'better' if comparison.difference >= 0 else 'worse'} than version {evidence.champion}"
    figures = f"{settings.metric} {comparison.challenger:.4f} against {comparison.champion:.4f}"
    if comparison.n_rows < evidence.n_rows:
        figures += f" on the {comparison.n_rows} rows that it did not learn from"
    if comparison.lower is None or comparison.upper is None:
        return f"{size} ({figures}; too few rows of one class for an interval)"
    interval = f"{comparison.confidence:.0%} interval {comparison.lower:+.4f} … {comparison.upper:+.4f}"
    asked = (
        f"up to {settings.margin:g} worse is let through"
        if settings.promote == "not_worse"
        else "only what is proven better is let through"
    )
    return f"{size} ({figures}; {interval}; {asked})"


def _old_partition(evidence: Evidence, partition_key: str, force: bool) -> GateResult:
    if evidence.champion is None:
        return _result("old partition", True, None, None, "no champion serves yet")
    if evidence.champion_end is None:
        reason = f"nobody can say which data version {evidence.champion} saw, so {partition_key} may be older"
        return _result("old partition", force, None, None, f"{reason}; {'forced' if force else 'run again with `force` to replace it'}")
    if partition_key >= evidence.champion_end:
        return _result("old partition", True, None, None, f"the champion saw data up to {evidence.champion_end}, this run is no older")
    reason = f"a run for {partition_key} can't replace a champion that saw {evidence.champion_end}"
    return _result("old partition", force, None, None, f"{reason}, but for `force`" + (", which is set" if force else ""))


def _result(gate: str, passes: bool, figure: float | None, bound: float | None, reason: str) -> GateResult:
    return GateResult(gate=gate, verdict="pass" if passes else "hold", figure=figure, bound=bound, reason=reason)
