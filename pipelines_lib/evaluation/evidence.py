"""What an evaluation leaves behind for the gates, as JSON."""

from pipelines_lib.contracts import Contract
from pipelines_lib.evaluation.compare import Comparison


class Measured(Contract):
    """A figure of some of the hold-out's rows, with its interval where it has one."""

    of: str
    """What was asked: a column, or a kind of worse input."""
    name: str
    """Which part, group or kind it is, for a person; of a column about people no value."""
    n_rows: int
    figure: float | None
    """None where these rows leave it undefined."""
    lower: float | None = None
    upper: float | None = None


class Evidence(Contract):
    """What the gates look at; an evaluation leaves it behind as JSON."""

    n_rows: int
    """Rows of the hold-out."""
    n_owners: int | None = None
    """Entities or groups that they belong to; None where each row stands for itself."""
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
    known_rows: int = 0
    """Rows of the hold-out that the challenger itself may have learned from."""
    slices: tuple[Measured, ...] = ()
    """`gate.metric` of each part."""
    calibration: float | None = None
    calibration_by_chance: float | None = None
    """What a perfectly calibrated model stays below in 19 of 20 hold-outs of these scores."""
    robustness: tuple[Measured, ...] = ()
    """How much the metric lost by each kind of worse input; negative where it gained."""
    impact: tuple[Measured, ...] = ()
    """Each group's rate of a yes over the most favoured group's."""
    opportunity: tuple[Measured, ...] = ()
    """How far each group's rate of a yes, among those who deserve one, lies below the best group's."""
    milliseconds: float | None = None
    """Median of one row at a time, transform and graph."""
    n_bytes: int | None = None
    """Of the graph and the transform."""
    cost: float | None = None
    """What the run has cost until its evaluation; None without a cloud to price it."""
    currency: str | None = None
