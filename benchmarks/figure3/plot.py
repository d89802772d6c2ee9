"""The figure and its table from the rows there are.

python -m benchmarks.figure3.plot --rows benchmarks/figure3/rows.jsonl --out benchmarks/figure3
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.figure3.run import finished
from benchmarks.figure3.settings import IMAGES, METHODS, OBJECTIVES, figure_settings
from tasks.reports.plots import Line, Panel, panels

__all__ = ["spread_line", "standing", "table"]

Rows = dict[tuple[str, str], list[dict[str, Any]]]


def standing(file: Path) -> Rows:
    """The rows of the figure's own settings; those of others are the ablation's."""
    rows: Rows = defaultdict(list)
    for row in finished(file):
        if row["settings"] == figure_settings(row["method"], row["objective"]):
            rows[row["method"], row["objective"]].append(row)
    return rows


def figure(rows: Rows) -> bytes:
    """Reward of the images of each epoch over images generated, a line a method with the spread over its seeds: SVG."""
    return panels([_panel(rows, objective) for objective in OBJECTIVES if any(o == objective for _, o in rows)])


def table(rows: Rows) -> Iterator[str]:
    """What the held-out prompts gained, method by method."""
    yield "| objective | method | runs | gain, mean | spread | better by more than 2 standard errors | of D3PO's mean |"
    yield "|---|---|---|---|---|---|---|"
    for objective in OBJECTIVES:
        ours = [row["difference"] for row in rows.get(("d3po", objective), [])]
        for method in METHODS:
            own = rows.get((method, objective), [])
            if not own:
                continue
            gains = [row["difference"] for row in own]
            sure = sum(row["difference"] > 2 * row["standard_error"] for row in own)
            spread = f"{stdev(gains):.3f}" if len(gains) > 1 else "–"
            share = f"{mean(gains) / mean(ours):.2f}" if ours else "–"
            yield f"| {objective} | {method} | {len(own)} | {mean(gains):+.3f} | {spread} | {sure} of {len(own)} | {share} |"


def spread_line(name: str, x: Sequence[float], curves: Sequence[Sequence[float]]) -> Line:
    """The mean of several runs' curves (each [len(x)]), with one standard deviation either way."""
    places = list(zip(*curves, strict=True))
    middle, spread = [mean(one) for one in places], [stdev(one) if len(one) > 1 else 0.0 for one in places]
    return Line(
        name=name,
        x=x,
        y=middle,
        low=[value - width for value, width in zip(middle, spread, strict=True)],
        high=[value + width for value, width in zip(middle, spread, strict=True)],
    )


def _panel(rows: Rows, objective: str) -> Panel:
    lines = []
    for method in METHODS:
        own = rows.get((method, objective), [])
        if not own:
            continue
        curves = [row["reward"] for row in own]
        lines.append(spread_line(method, [IMAGES * (epoch + 1) for epoch in range(len(curves[0]))], curves))
    return Panel(title=objective, x_label="images generated", y_label=OBJECTIVES[objective], lines=lines)


def main() -> None:
    """Write ``figure3.svg`` and ``table.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = standing(arguments.rows)
    if not rows:
        parser.error(
            f"expected rows of the settings that stand, found none in {arguments.rows}; next: benchmarks.figure3.run"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "figure3.svg").write_bytes(figure(rows))
    (arguments.out / "table.md").write_text("\n".join(table(rows)) + "\n")
    print("\n".join(table(rows)))
    print(json.dumps({f"{method} {objective}": len(own) for (method, objective), own in rows.items()}))


if __name__ == "__main__":
    main()
