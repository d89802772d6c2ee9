"""A configuration from where it is written: a YAML file, a run's folder, a plain object, and options on top.

Every mistake is named by its field, with what was expected and the nearest known name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from d3po_core.programmed.config import kinds
from storage.layout import RUN_FILE
from storage.run import Run
from tasks.config import OF_A_PLAN, Configuration, field_classes
from tasks.errors import UserError

__all__ = ["load_configuration", "parse_configuration", "root_and_name"]


class _CommandLine(BaseSettings, Configuration):
    """The same tree, read from ``--section.field`` options."""


def load_configuration(
    source: "str | Path | Mapping[str, Any] | Configuration", overrides: Sequence[str] = (), *, of_a_plan: bool = False
) -> Configuration:
    """A configuration from a YAML file, a run's folder or an object, with ``--section.field value`` options on top.

    Args:
        source: Where its fields are.
        overrides: The options.
        of_a_plan: As for ``parse_configuration``.

    Raises:
        UserError: No such file, no YAML, an unknown or a wrong field; the message names each.
    """
    if isinstance(source, Configuration):
        values, where = source.model_dump(mode="json"), "the given object"
    elif isinstance(source, Mapping):
        values, where = dict(source), "the given object"
    else:
        values, where = _values_at(str(source)), str(source)
    return parse_configuration(_with_overrides(values, _parse_overrides(overrides)), where, of_a_plan=of_a_plan)


def parse_configuration(values: Mapping[str, Any], where: str, *, of_a_plan: bool = False) -> Configuration:
    """Validate plain values.

    Args:
        values: All fields, as in a file.
        where: They were read.
        of_a_plan: Their sampling and labels are an existing epoch's, to be looked at: whether that could be trained on
            with the other fields, which may have changed since, is not asked.

    Raises:
        UserError: Naming each field that is unknown, missing or wrong, and ``where`` it was read.
    """
    try:
        return Configuration.model_validate(dict(values), context={OF_A_PLAN: of_a_plan})
    except ValidationError as error:
        raise UserError(
            f"{where} is not a valid configuration:\n" + "\n".join(_explain(item) for item in error.errors()),
            remedy="mend the fields named above; 'd3po schema' lists every field with its meaning",
        ) from None


def _explain(item: Any) -> str:
    loc = [str(part) for part in item["loc"]]
    known = [name for name, _ in field_classes(Configuration)]
    if loc[:1] == ["programmed"] and len(loc) > 3:
        kind = loc.pop(2)  # by which pydantic chose the section
        known = [f"programmed.{loc[1]}.{field}" for field in kinds()[kind].model_fields]
    path = ".".join(loc)
    if item["type"] == "extra_forbidden":
        return f"  {path}: no such field{_suggestion(path, known)}"
    if item["type"] == "union_tag_not_found":
        return f"  {path}.kind: missing; there are {', '.join(kinds())}"
    if item["type"] == "missing":
        return f"  {path}: missing, and it has no default"
    message = item["msg"].removeprefix("Value error, ")
    found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
    return f"  {path or 'configuration'}: {message}{found}"


def _suggestion(path: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _values_at(place: str) -> dict[str, Any]:
    """A file's values, or those that a run was made with, where it lies now."""
    if not place.startswith("s3://") and not Path(place, RUN_FILE).is_file():
        return _read_yaml(Path(place))
    root, name = root_and_name(place)
    written = Run.open(root, name).info["configuration"]
    return {**written, "storage": {**written.get("storage", {}), "root": root}, "run": name}


def root_and_name(folder: str) -> tuple[str, str]:
    """A run's folder as typed (``runs/demo``, ``.``, ``s3://bucket/runs/demo``): where runs lie, and the run's name."""
    if not folder.startswith("s3://") and Path(folder).name in ("", ".."):
        folder = str(Path(folder).resolve())
    root, slash, name = folder.rstrip("/").rpartition("/")
    return root or slash or ".", name


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no configuration file at {path} (looked from {Path.cwd()})", remedy="ls configs/")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not readable YAML: {error}", remedy="mend the file, then run the command again"
        ) from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds {type(values).__name__}, expected a mapping of fields", remedy="see configs/demo.yaml"
        )
    return values


def _parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    if not arguments:
        return {}
    try:
        return CliSettingsSource(_CommandLine, cli_parse_args=list(arguments), cli_exit_on_error=False)()
    except SettingsError as error:
        raise UserError(f"cannot read the options {' '.join(arguments)}: {error}", remedy="d3po schema") from None


def _with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options on top; one that chooses another objective does away with the fields of the file's."""
    kind = overrides.get("objective", {}).get("kind")
    if kind is not None and kind != values.get("objective", {}).get("kind", "d3po"):
        values = {**values, "objective": {}}
    return _merged(values, overrides)


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged
