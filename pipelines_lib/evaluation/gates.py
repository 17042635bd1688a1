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

Of fewer than `MIN_OWNERS` entities nobody knows S, so neither of the two is told: the gate holds.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pipelines_lib.contracts import GateResult
from pipelines_lib.evaluation.compare import MIN_OWNERS, Comparison
from pipelines_lib.evaluation.evidence import Evidence, Measured
from pipelines_lib.use_case import HIGHER_IS_BETTER, Gate

Standing = Literal["better", "not worse", "worse"]


def judge(settings: Gate, evidence: Evidence, *, partition_key: str, force: bool) -> list[GateResult]:
    """Every gate's verdict, in the order of the report, for a run of `partition_key`.

    `force`: a person lets the run replace a champion that it can't be compared with, or that saw newer data.
    """
    asked = [_slices, _calibration, _robustness, _impact, _opportunity, _latency, _size, _cost]
    return [
        _enough_rows(settings, evidence),
        _unseen_rows(evidence),
        _floor(settings, evidence),
        _champion(settings, evidence, force),
        _old_partition(evidence, partition_key, force),
        *(result for gate in asked if (result := gate(settings, evidence)) is not None),
    ]


def held(results: list[GateResult]) -> str | None:
    """Why the model is held, all reasons in one sentence; None where every gate passes."""
    reasons = [f"{result.gate}: {result.reason}" for result in results if result.verdict == "hold"]
    return "; ".join(reasons) or None


def _enough_rows(settings: Gate, evidence: Evidence) -> GateResult:
    enough = evidence.n_rows >= settings.min_rows
    owners = "" if evidence.n_owners is None else f" of {evidence.n_owners} entities or groups"
    reason = f"{evidence.n_rows} rows{owners} in the hold-out, {settings.min_rows} rows needed"
    return _result("rows", enough, evidence.n_rows, settings.min_rows, reason)


def _unseen_rows(evidence: Evidence) -> GateResult:
    n_known = evidence.known_rows
    if not n_known:
        return _result("unseen rows", True, 0, 0, "no row of the hold-out belongs to an entity, a group or a row that was learned from")
    remedy = "prepare the window's partitions again under one `split`, then train again"
    return _result(
        "unseen rows", False, n_known, 0, f"{n_known} of {evidence.n_rows} rows of the hold-out belong to who was learned from; {remedy}"
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
    if evidence.comparison.n_owners < MIN_OWNERS:
        figures = _figures(settings, evidence, evidence.comparison)
        why = (
            f"{figures}: these rows belong to {evidence.comparison.n_owners} entities or groups, and fewer than {MIN_OWNERS} prove nothing"
        )
        remedy = "forced" if force else "widen training.window or raise split.test, or run again with `force` to replace it"
        return _result("champion", force, evidence.comparison.difference, bound, f"{why}; {remedy}")
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
    figures = _figures(settings, evidence, comparison)
    if comparison.lower is None or comparison.upper is None:
        return f"{size} ({figures}; too few rows of one class for an interval)"
    interval = f"{comparison.confidence:.0%} interval {comparison.lower:+.4f} … {comparison.upper:+.4f}"
    asked = (
        f"up to {settings.margin:g} worse is let through"
        if settings.promote == "not_worse"
        else "only what is proven better is let through"
    )
    return f"{size} ({figures}; {interval}; {asked})"


def _figures(settings: Gate, evidence: Evidence, comparison: Comparison) -> str:
    figures = f"{settings.metric} {comparison.challenger:.4f} against {comparison.champion:.4f}"
    return figures + (f" on the {comparison.n_rows} rows that it did not learn from" if comparison.n_rows < evidence.n_rows else "")


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


# The gates that a use case asks for; None where it does not. Of figures with an interval those hold that are proven: with many parts, some look bad by luck.


def _slices(settings: Gate, evidence: Evidence) -> GateResult | None:
    if not settings.slices:
        return None
    floors = {asked.column: settings.floor if asked.floor is None else asked.floor for asked in settings.slices}
    higher = HIGHER_IS_BETTER[settings.metric]
    judged = [part for part in evidence.slices if _is_known(part) and part.of in floors]

    def room(part: Measured) -> float:
        """How far the interval's better end is from the floor; negative where the part is proven to miss it."""
        end = part.upper if higher else part.lower
        assert end is not None, "the part is known"
        return (end - floors[part.of]) * (1 if higher else -1)

    said = [f"{_shown(part)}, and it must be at {'least' if higher else 'most'} {floors[part.of]:g}" for part in judged if room(part) < 0]
    said += _not_there(settings, evidence) + [
        f"no part of {column} has the rows, of enough owners and of both classes, to be judged; lower its min_rows in gate.slices, or widen training.window"
        for column in floors
        if column not in {part.of for part in judged}
    ]
    if not judged:
        return _result("slices", False, None, None, "; ".join(said))
    worst, few = min(judged, key=room), len(evidence.slices) - len(judged)
    passed = f"no part of {len(judged)} is proven to miss its floor{f', {few} have too few rows' if few else ''}; nearest: {_shown(worst)}"
    return _result("slices", not said, worst.figure, floors[worst.of], "; ".join(said) or passed)


def _not_there(settings: Gate, evidence: Evidence) -> list[str]:
    """A sentence on the parts that `values` asks for and of which the hold-out has no row: a typing error would switch their floor off."""
    named = {asked.column for asked in settings.slices if asked.values}
    absent = [part.name for part in evidence.slices if part.of in named and not part.n_rows]
    return [f"the hold-out has no row of {', '.join(absent)}; correct `values` in gate.slices, or widen training.window"] if absent else []


def _calibration(settings: Gate, evidence: Evidence) -> GateResult | None:
    bound, found, chance = settings.calibration, evidence.calibration, evidence.calibration_by_chance
    if bound is None:
        return None
    if found is None or chance is None:
        return _result(
            "calibration", False, None, bound, "the calibration error is undefined; widen training.window, so that there is a hold-out"
        )
    figures = f"calibration error {found:.4f}, at most {bound:g} asked; a perfect model of so many rows stays below {chance:.4f} in 19 of 20 cases"
    return _result("calibration", found <= max(bound, chance), found, bound, figures)


def _robustness(settings: Gate, evidence: Evidence) -> GateResult | None:
    if settings.robustness is None:
        return None
    bound, lost = settings.robustness.loss, [(kind.figure, kind) for kind in evidence.robustness if kind.figure is not None]
    if not lost:
        return _result(
            "robustness",
            False,
            None,
            bound,
            f"{settings.metric} is undefined on worse inputs, or no feature can become worse; mend or remove gate.robustness",
        )
    worst, _ = max(lost, key=lambda pair: pair[0])
    figures = ", ".join(f"{kind.name} {loss:+.4f}" for loss, kind in lost)
    return _result("robustness", worst <= bound, worst, bound, f"{settings.metric} loses by {figures}; at most {bound:g} asked")


def _impact(settings: Gate, evidence: Evidence) -> GateResult | None:
    bounds = {asked.column: asked.impact for asked in settings.fairness}
    return _fair("disparate impact", bounds, evidence.impact, lower_is_worse=True)


def _opportunity(settings: Gate, evidence: Evidence) -> GateResult | None:
    bounds = {asked.column: asked.opportunity for asked in settings.fairness}
    return _fair("equal opportunity", bounds, evidence.opportunity, lower_is_worse=False)


def _fair(gate: str, bounds: Mapping[str, float], groups: Sequence[Measured], *, lower_is_worse: bool) -> GateResult | None:
    if not bounds:
        return None
    known = [(group.figure, group) for group in groups if group.figure is not None and _is_known(group) and group.of in bounds]
    blind = [
        f"no two groups of {column} have the rows, or the yeses, to be compared; lower min_rows or threshold in gate.fairness, or widen training.window"
        for column in bounds
        if column not in {group.of for _, group in known}
    ]
    if not known:
        return _result(gate, False, None, None, "; ".join(blind))

    def proven(group: Measured) -> bool:
        end = group.upper if lower_is_worse else group.lower
        return end is not None and (end < bounds[group.of] if lower_is_worse else end > bounds[group.of])

    failed = [group for _, group in known if proven(group)]
    figure, worst = (min if lower_is_worse else max)(known, key=lambda pair: pair[0])
    asked = f"at {'least' if lower_is_worse else 'most'} {bounds[worst.of]:g} asked"
    few = sum(not _is_known(group) for group in groups)
    shown = "; ".join(map(_shown, failed)) or (
        f"no gap beyond the bound is proven{f', {few} groups have too few rows' if few else ''}; widest: {_shown(worst)}"
    )
    return _result(gate, not failed and not blind, figure, bounds[worst.of], "; ".join([f"{shown}; {asked}", *blind]))


def _latency(settings: Gate, evidence: Evidence) -> GateResult | None:
    bound, found = settings.milliseconds, evidence.milliseconds
    if bound is None:
        return None
    said = "undefined, without a row" if found is None else f"{found:.3f} ms a row"
    return _result("latency", found is not None and found <= bound, found, bound, f"{said}, at most {bound:g} ms asked")


def _size(settings: Gate, evidence: Evidence) -> GateResult | None:
    bound, found = settings.max_bytes, evidence.n_bytes
    if bound is None or found is None:
        return None
    return _result("size", found <= bound, found, bound, f"graph and transform have {found:,} bytes, at most {bound:,} asked")


def _cost(settings: Gate, evidence: Evidence) -> GateResult | None:
    bound, comparison = settings.cost_per_point, evidence.comparison
    if bound is None:
        return None
    if comparison is None:
        return _result("cost", True, None, bound, "nothing to gain over: there is no champion, or it can't be compared")
    if evidence.cost is None:
        return _result(
            "cost",
            False,
            None,
            bound,
            "nobody knows what the run cost; give the profile `prices` and `cloud`, or remove gate.cost_per_point",
        )
    paid = f"{evidence.cost:.4g} {evidence.currency}"
    points = gained_points(comparison)
    if points <= 0:
        return _result("cost", False, None, bound, f"{paid} brought no gain, and at most {bound:g} a point is asked")
    return _result(
        "cost",
        evidence.cost / points <= bound,
        evidence.cost / points,
        bound,
        f"{paid} for {points:.2f} points; at most {bound:g} a point asked",
    )


def gained_points(comparison: Comparison) -> float:
    """The difference in points: of 0.01 where the metric lies between 0 and 1, of 1 % of the champion's where it is a loss or an error."""
    if HIGHER_IS_BETTER[comparison.metric] or comparison.metric in ("brier", "calibration_error"):
        return 100 * comparison.difference
    return 100 * comparison.difference / comparison.champion if comparison.champion else 0.0


def _is_known(part: Measured) -> bool:
    """Whether it can be judged: a figure without an interval proves nothing."""
    return None not in (part.figure, part.lower, part.upper)


def _shown(part: Measured) -> str:
    interval = "" if part.lower is None or part.upper is None else f", {part.lower:.4f} … {part.upper:.4f}"
    return f"{part.name} {part.figure:.4f} ({part.n_rows} rows{interval})"


def _result(gate: str, passes: bool, figure: float | None, bound: float | None, reason: str) -> GateResult:
    return GateResult(gate=gate, verdict="pass" if passes else "hold", figure=figure, bound=bound, reason=reason)
