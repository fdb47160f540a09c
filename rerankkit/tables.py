"""Draws a comparison as one table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from rerankkit.evaluate import Comparison, Difference


def render(comparison: Comparison, title: str = "") -> Table:
    """One table: systems by measures, the best in bold, below each value its difference to the baseline."""
    table = Table(title=Text(title) if title else None, caption=Text(_caption(comparison)))
    table.title_justify = table.caption_justify = "left"
    table.add_column("system")
    for name in comparison.measures:
        table.add_column(Text(name))
    table.add_column("judged@10", justify="right")
    best = {name: max(m.mean(name) for m in comparison.systems.values()) for name in comparison.measures}
    for system, measured in comparison.systems.items():
        row = [Text(system)]
        for name in comparison.measures:
            value = measured.mean(name)
            cell = Text(f"{value:.3f}", style="bold" if value == best[name] else "")
            if found := comparison.differences.get(system, {}).get(name):
                cell.append(f"  {describe(found)}", style="not bold")
            row.append(cell)
        table.add_row(*row, Text(f"{measured.judged_at_10:.0%}"))
    return table


def describe(found: Difference) -> str:
    """A difference on three lines: its mean; its interval; its p and the queries it wins, ties and loses."""
    if found.same:
        return "no difference"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    interval = f"[{_signed(found.low)}, {_signed(found.high)}]"
    return f"{_signed(found.mean)}\n{interval}\n{p}  {found.wins}/{found.ties}/{found.losses}"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # adding 0.0 turns -0.0 into 0.0


def _caption(comparison: Comparison) -> str:
    systems = comparison.systems
    lines = [f"{comparison.queries} queries; queries without results count 0."]
    if len(systems) > 1:
        lines.append(
            f"Against {comparison.baseline}: mean difference [95 % interval], p of a randomisation test"
            f"{' (Holm)' if len(systems) > 2 else ''}, wins/ties/losses."
        )
    for what, counts in (
        ("Queries without results", {name: len(m.missing) for name, m in systems.items()}),
        ("Queries without judgements, left out", {name: len(m.unjudged) for name, m in systems.items()}),
    ):
        if any(counts.values()):
            lines.append(f"{what}: " + ", ".join(f"{name} {count}" for name, count in counts.items() if count) + ".")
    return "\n".join(lines)
