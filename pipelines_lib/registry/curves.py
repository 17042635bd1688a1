"""The curves of a training as pictures."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Curves = Mapping[str, Mapping[int, float]]
"""Name → step → value."""

_PICTURES = {
    "loss": (("train_loss", "validation_loss"), "mean loss"),
    "rows_per_second": (("rows_per_second",), "rows per second"),
    "learning_rate": (("learning_rate",), "learning rate"),
}


def charts(curves: Curves) -> dict[str, Figure]:
    """Name of the picture → the picture: figures of the same kind by epoch, in one frame."""
    return {
        name: _chart({curve: curves[curve] for curve in together if curves.get(curve)}, label)
        for name, (together, label) in _PICTURES.items()
        if any(curves.get(curve) for curve in together)
    }


def _chart(curves: Curves, label: str) -> Figure:
    # A Figure of its own and not pyplot's: nothing is kept, and no display is looked for.
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        steps = sorted(curve)
        axes.plot(steps, [curve[step] for step in steps], marker="o", markersize=3, label=name.replace("_", " "))
    if (validation := curves.get("validation_loss")) is not None:
        best = min(validation, key=lambda step: (validation[step], step))
        axes.axvline(best, color="grey", linewidth=0.8, linestyle=":", label=f"best: epoch {best}")
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
