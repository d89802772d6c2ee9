"""Which outputs have to be made again because what is committed of them is missing or corrupt.

Making them again is the flow's: a new attempt, committed with ``supersede=True``.
"""

from storage.epoch import Epoch
from storage.verify import damage

__all__ = ["damage", "scan"]


def scan(epoch: Epoch) -> list[str]:
    """The names of the commits whose marker or files are missing or corrupt, sorted; ``damage`` also says how."""
    return list(damage(epoch))
