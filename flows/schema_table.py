"""The configuration's fields as a table, from the same model that validates them."""

from collections.abc import Iterator

from pydantic_core import PydanticUndefined

from d3po_core.config import Section
from d3po_core.programmed.config import kinds
from tasks.config import Configuration

__all__ = ["field_rows"]


def field_rows(model: type[Section] = Configuration, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(path, default, class of change, meaning) of each field."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from field_rows(field.annotation, f"{prefix}{name}.")
            continue
        default = "required" if field.default is PydanticUndefined else str(field.default)
        meaning = " ".join((field.description or "").split())
        yield f"{prefix}{name}", default, str(field.json_schema_extra["frozen_by"]), meaning
        if name == "programmed":
            for kind, section in kinds().items():
                rows = field_rows(section, f"programmed.NAME ({kind}).")
                yield from sorted(rows, key=lambda row: not row[0].endswith(".kind"))
