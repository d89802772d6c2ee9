"""What is evaluated, by name: held-out prompts as groups, candidates, and the parts that are kept of them."""

from d3po_core.records import Group

__all__ = ["BASE", "group_of", "images_name", "part_name"]

BASE = "base"
"""The pretrained model: always among the candidates, and what the others are compared with."""


def group_of(index: int, prompt: str) -> Group:
    """A held-out prompt as a group: ``e000012``."""
    return Group(id=f"e{index:06d}", index=index, prompt=prompt)


def part_name(candidate: str, eta: float, what: str) -> str:
    """``A-eta-0.5-images``: what is kept of a candidate at one η."""
    return f"{candidate}-eta-{eta:g}-{what}"


def images_name(candidate: str, eta: float) -> str:
    """The part that holds a candidate's images."""
    return part_name(candidate, eta, "images")
