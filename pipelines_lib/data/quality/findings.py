"""All that was found in a partition, and what that means for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines_lib.data.anonymity import Anonymity
from pipelines_lib.data.quality.judge import Check
from pipelines_lib.data.quality.rejections import Reason, Rejections, such_as
from pipelines_lib.data.quality.upstream import Change
from pipelines_lib.use_case import Quality

_SHOWN_REASONS = 5


@dataclass(frozen=True)
class Findings:
    """All that was found in a partition."""

    quality: Quality
    n_rows: int
    """Records of the partition, those that can't be read among them."""
    rejections: Rejections
    checks: Sequence[Check] = ()
    changes: Sequence[Change] = ()
    anonymity: Anonymity | None = None
    """Of the rows that pass, where the use case has quasi-identifiers."""
    too_telling: str = ""
    """Why they must not pass, where the use case holds a partition whose rows are too telling."""

    @property
    def n_quarantined(self) -> int:
        """Rows that must not pass."""
        return self.rejections.n_rows

    @property
    def share(self) -> float:
        """Share of the rows that must not pass."""
        return self.n_quarantined / self.n_rows if self.n_rows else 0.0

    @cached_property
    def reasons(self) -> list[Reason]:
        """Why rows must not pass, the most frequent reason first."""
        return self.rejections.by_reason(self.checks)

    @cached_property
    def held_because(self) -> str:
        """Why the partition must not pass, or nothing: what failed, how many rows, and the first of them."""
        if self.n_rows == 0:
            return "it has no rows"
        because = [f"{change.kind} {change.column!r}: {change.said}" for change in self.changes if change.holds]
        because += [_failure(check) for check in self.checks if not check.success and not check.of_rows]
        if self.too_telling:
            because.append(self.too_telling)
        if self.share > self.quality.max_quarantined:
            shown = [f"{reason.name}: {reason.n_rows} rows, such as {such_as(reason.examples)}" for reason in self.reasons[:_SHOWN_REASONS]]
            if len(self.reasons) > _SHOWN_REASONS:
                shown.append(f"{len(self.reasons) - _SHOWN_REASONS} other reasons")
            because.append(
                f"{self.n_quarantined} of {self.n_rows} rows ({self.share:.1%}) are quarantined, and quality.max_quarantined allows "
                f"{self.quality.max_quarantined:.1%}: " + "; ".join(shown)
            )
        return "; ".join(because)


def _failure(check: Check) -> str:
    if check.n_failed == 0:
        return f"{check.name} failed" + (f" ({check.observed})" if check.observed else "")
    share = check.n_failed / check.n_checked if check.n_checked else 1.0
    return f"{check.name} failed for {check.n_failed} of {check.n_checked} rows ({share:.1%}), such as {such_as(check.examples)}"
