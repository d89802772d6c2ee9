"""What each choice does: one setting changed at a time, with a run seed that the figure does not use.

    python -m benchmarks.figure3.choices --rows benchmarks/figure3/choices.jsonl

Each method's learning rate in the figure is the one with which it gains most here.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure3.run import complete, finished
from benchmarks.figure3.settings import METHODS, Settings, settings_of

__all__ = ["CHOICES", "tables"]

SEED, OBJECTIVE = 100, "compressibility"
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)

CHOICES: list[tuple[str, str, Settings]] = [
    *(
        (method, f"learning rate {rate:g}", {"training": {"learning_rate": rate}})
        for rate in LEARNING_RATES
        for method in METHODS
    ),
    *((method, "ratio clip at 0.1", {"objective": {"ratio_clip_range": 0.1}}) for method in ("ddpo", "dpok", "prdp")),
    *(("d3po", f"beta {beta:g}", {"objective": {"beta": beta}}) for beta in (1.0, 100.0)),
    *(
        ("d3po", f"{mode} ratio clip at 0.01", {"objective": {"ratio_clip": mode, "ratio_clip_range": 1e-2}})
        for mode in ("published", "pessimistic")
    ),
    *(("d3po", f"first {count} transitions", {"training": {"first_transitions": count}}) for count in (5, 20)),
    ("d3po", "5 of the first 10 transitions", {"training": {"transitions_per_trajectory": 5}}),
    *(("d3po", f"{48 // pairs} updates an epoch", {"training": {"groups_per_step": pairs}}) for pairs in (4, 16, 48)),
]
"""(method, what is changed, the change)."""


def tables(rows: Path) -> Iterator[str]:
    """What the held-out prompts gained, and how many paired standard errors that is: learning rates, then the others."""
    there = finished(rows)
    found = {
        (method, choice): f"{row['difference']:+.3f} ({row['difference'] / row['standard_error']:+.1f})"
        for method, choice, changes in CHOICES
        for row in there
        if row["method"] == method and row["settings"] == settings_of(method, changes)
    }
    yield f"| learning rate | {' | '.join(f'{rate:g}' for rate in LEARNING_RATES)} |"
    yield "|---" * (1 + len(LEARNING_RATES)) + "|"
    for method in METHODS:
        gains = [found.pop((method, f"learning rate {rate:g}"), "–") for rate in LEARNING_RATES]
        yield f"| {method} | {' | '.join(gains)} |"
    yield "\n| the figure's settings, but | gain |\n|---|---|"
    yield from (f"| {method}: {choice} | {gain} |" for (method, choice), gain in found.items())


def main() -> None:
    """Every choice that has no row yet, then the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--only", default="", help="choices whose name has this in it")
    arguments = parser.parse_args()
    complete(
        arguments.rows,
        [
            (method, settings_of(method, changes), OBJECTIVE, SEED)
            for method, choice, changes in CHOICES
            if method in arguments.methods and arguments.only in choice
        ],
    )
    print("\n".join(tables(arguments.rows)))


if __name__ == "__main__":
    main()
