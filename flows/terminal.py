"""How every verb speaks: one console, and tables without frames."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table

__all__ = ["console", "print_table"]

console = Console(soft_wrap=True, highlight=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under these headers; without headers, rows alone."""
    folding = (Column(name, overflow="fold") for name in columns)  # on a narrow terminal nothing is cut off
    table = Table(*folding, box=None, pad_edge=False, show_header=bool(columns))
    for row in rows:
        table.add_row(*row)
    console.print(table)
