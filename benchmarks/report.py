"""What a benchmark found: a table on the terminal, a plot and a JSON file."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Comparison:
    """A subject against its baseline, each measured several times in turn.

    Args:
        what: what is compared.
        unit: of all samples.
        subject: label and samples of what is judged.
        baseline: label and samples of what it is judged by.
        goal: the largest ratio (smallest, where more is better) that is good; None, no goal.
        more_is_better: the samples are a rate rather than a cost.
        over: how much more than the baseline is good, where that is the goal and not a ratio.
    """

    what: str
    unit: str
    subject: tuple[str, Sequence[float]]
    baseline: tuple[str, Sequence[float]]
    goal: float | None = None
    more_is_better: bool = False
    over: float | None = None

    @property
    def ratio(self) -> float:
        """Median of the subject over median of the baseline."""
        return median(self.subject[1]) / median(self.baseline[1])

    @property
    def difference(self) -> float:
        """Median of the subject less that of the baseline."""
        return median(self.subject[1]) - median(self.baseline[1])

    @property
    def aim(self) -> str:
        """The goal in words; empty where there is none."""
        if self.over is not None:
            return f"≤ +{self.over:g} {self.unit}"
        sign = "≥" if self.more_is_better else "≤"
        return f"{sign} {self.goal:g}×" if self.goal is not None else ""

    @property
    def verdict(self) -> str:
        """Whether the goal is met; empty where there is none."""
        if self.over is not None:
            return "met" if self.difference <= self.over else "missed"
        if self.goal is None:
            return ""
        met = self.ratio >= self.goal if self.more_is_better else self.ratio <= self.goal
        return "met" if met else "missed"


@dataclass(frozen=True)
class Result:
    """One benchmark's comparisons, and what has to be known to read them."""

    name: str
    title: str
    comparisons: Sequence[Comparison]
    notes: Sequence[str] = field(default_factory=tuple)


def show(result: Result, console: Console) -> None:
    """Print the comparisons as a table, then the notes."""
    table = Table(title=result.title, title_justify="left")
    for column in ("compared", "subject", "baseline", "ratio", "goal", ""):
        table.add_column(column, justify="left" if column == "compared" else "right")
    for one in result.comparisons:
        table.add_row(
            one.what,
            _cell(one.subject, one.unit),
            _cell(one.baseline, one.unit),
            f"{one.ratio:.2f}×" if one.over is None else f"{one.difference:+.2f} {one.unit}",
            one.aim or "–",
            one.verdict,
        )
    console.print(table)
    for note in result.notes:
        console.print(f"  {note}", highlight=False)


def _cell(side: tuple[str, Sequence[float]], unit: str) -> str:
    label, samples = side
    return f"{label}\n{median(samples):,.4g} {unit} (n={len(samples)})"


def save(result: Result, folder: Path) -> tuple[Path, Path]:
    """Write `<name>.json` and `<name>.png`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, picture = folder / f"{result.name}.json", folder / f"{result.name}.png"
    text.write_text(json.dumps(_as_json(result), indent=1) + "\n")
    _plot(result, picture)
    return text, picture


def machine() -> Mapping[str, str | int]:
    """Return what the figures depend on, without names."""
    return {
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _as_json(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "title": result.title,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "comparisons": [
            {
                "what": one.what,
                "unit": one.unit,
                "subject": {"label": one.subject[0], "samples": list(one.subject[1])},
                "baseline": {"label": one.baseline[0], "samples": list(one.baseline[1])},
                "ratio": round(one.ratio, 3),
                "goal": one.goal,
                "over": one.over,
                "verdict": one.verdict,
            }
            for one in result.comparisons
        ],
        "notes": list(result.notes),
    }


def _plot(result: Result, path: Path) -> None:
    """Draw a panel a comparison, six in a row: bars are medians, dots the single measurements."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(6, len(result.comparisons))
    rows = -(-len(result.comparisons) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.6, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(result.title, fontsize=10)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in panels[len(result.comparisons) :]:
        unused.set_axis_off()
    for axes, one in zip(panels, result.comparisons, strict=False):
        for x, (label, samples), colour in (
            (0, one.baseline, "#9aa5b1"),
            (1, one.subject, "#2f6f9f"),
        ):
            axes.bar(x, median(samples), color=colour, width=0.6, label=label)
            axes.scatter([x] * len(samples), samples, color="black", s=9, zorder=3)
        axes.set_xticks([0, 1], [one.baseline[0], one.subject[0]], fontsize=8)
        axes.set_ylabel(one.unit)
        goal = f", goal {one.aim}: {one.verdict}" if one.aim else ""
        axes.set_title(f"{one.what}\n{one.ratio:.2f}×{goal}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
