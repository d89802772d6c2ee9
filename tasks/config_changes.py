"""What changed between two configurations, for people; and fields of older versions by the names that they have now."""

from collections.abc import Mapping
from typing import Any

from tasks.config import Configuration

__all__ = ["changed_fields", "current_fields"]


def changed_fields(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Readable differences of two flat dictionaries, one line a field.

    A field that an older version did not know had the value that is its default now.
    """
    before = current_fields(before)
    before = {**{path: _default(path) for path in now if "." in path}, **before}
    return [
        f"{path}: was {before.get(path, 'not set')!r}, is {now.get(path, 'not set')!r}"
        for path in sorted({*now, *before})
        if now.get(path) != before.get(path)
    ]


def current_fields(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Flat fields as an older version froze them, by the names that they have now."""
    fields = dict(frozen)
    if "labels.objective" in fields:
        fields["labels.objectives"] = [fields.pop("labels.objective")]
    return fields


def _default(path: str) -> Any:
    section, _, field = path.partition(".")
    return Configuration.model_fields[section].annotation.model_fields[field].get_default(call_default_factory=True)
