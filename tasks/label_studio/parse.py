"""From Label Studio's raw records to judgements: everything is validated, nothing is dropped in silence.

Label Studio accepts any control name and any value from its API, anybody may delete or edit anything in its pages, and
an import can have happened twice. So every annotation ends in exactly one of three places: a judgement, a skip, or set
aside with the reason. Which image stood where is read from the push plan, never from what the server says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from d3po_core.records import Judgement

from .screens import COMPARE_VERDICTS, Screen

__all__ = ["KnownAnswer", "ParsedAnnotations", "PushPlan", "SetAside", "Skip", "parse_export"]

_PLAN_FORMAT = "d3po-push-plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """A comparison whose answer is known: no group of the epoch, shown as if it were one."""

    prompt: str
    order: tuple[str, ...]
    """Its images' ids in presented order."""
    good: tuple[str, ...]
    """Those that are better than the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """What is decided before the import, and read again when the annotations come back."""

    run_id: str
    """Of the run that pushed: a fork keeps its parent's, because the uids are in Label Studio."""
    epoch: int
    screen: Screen
    orders: Mapping[str, tuple[str, ...]]
    """Group id to its trajectory ids in presented order."""
    gold: Mapping[str, KnownAnswer] = field(default_factory=dict)
    """Comparisons with a known answer, by ids that no group has."""

    @property
    def shown(self) -> dict[str, tuple[str, ...]]:
        """All comparisons that people meet: the groups', then those with a known answer."""
        return {**self.orders, **{name: known.order for name, known in self.gold.items()}}

    def uid(self, group_id: str) -> str:
        """The key of a group's comparison in Label Studio's data."""
        return f"{self.run_id}/{self.epoch}/{group_id}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with their ``format``."""
        screen = {"kind": self.screen.kind, "group_size": self.screen.group_size, "choice": self.screen.choice,
                  "labeling_config": self.screen.labeling_config, "instructions": self.screen.instructions,
                  "digest": self.screen.digest}  # fmt: skip
        orders = {group: list(order) for group, order in sorted(self.orders.items())}
        body = {"format": _PLAN_FORMAT, "run_id": self.run_id, "epoch": self.epoch, "screen": screen, "orders": orders}
        return body | ({"gold": {name: asdict(known) for name, known in self.gold.items()}} if self.gold else {})

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "PushPlan":
        """The plan that ``to_json`` wrote.

        Raises:
            ValueError: Another format.
        """
        if body.get("format") != _PLAN_FORMAT:
            raise ValueError(f"a push plan of format {_PLAN_FORMAT!r} was expected, found {body.get('format')!r}")
        screen = Screen(**{key: value for key, value in body["screen"].items() if key != "digest"})
        orders = {group: tuple(order) for group, order in body["orders"].items()}
        gold = {
            name: KnownAnswer(prompt=known["prompt"], order=tuple(known["order"]), good=tuple(known["good"]))
            for name, known in body.get("gold", {}).items()
        }
        return cls(run_id=body["run_id"], epoch=body["epoch"], screen=screen, orders=orders, gold=gold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """One person passed over one group."""

    id: str
    group_id: str
    judge: str
    updated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An annotation that is no judgement, and why."""

    id: str
    """``ls:4711``."""
    reason: str
    group: str | None = None
    """The group it was meant for, where that is known."""


@dataclass(slots=True, kw_only=True)
class ParsedAnnotations:
    """Everything that people left in a project."""

    judgements: list[Judgement] = field(default_factory=list)
    gold: list[Judgement] = field(default_factory=list)
    """Of the comparisons with a known answer; as valid as the others, and of no group."""
    skips: list[Skip] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    drafts: int = 0
    """Unfinished annotations: not judgements, only counted."""
    people: set[int] = field(default_factory=set)
    """Everybody who left an annotation, whatever became of it, by user number."""
    missing: list[str] = field(default_factory=list)
    """Groups of the plan whose comparison is not in the records any more."""


class _NotAJudgement(Exception):
    """Why one annotation cannot be read."""


def parse_export(
    records: Iterable[Any], plan: PushPlan, push: Mapping[str, Sequence[int]] | None = None
) -> ParsedAnnotations:
    """Validate every annotation of a project.

    Two tasks of one uid (an import that happened twice) are two sources of judgements on one group.

    Args:
        records: Label Studio's tasks with their annotations, as exported.
        plan: Says which groups there are and which image stood where.
        push: uid to the tasks that were made for it; a task found under another uid than it was pushed with is not
            trusted.

    Returns:
        Sorted by annotation number. Nothing that a record may contain raises.
    """
    groups = {plan.uid(group_id): group_id for group_id in plan.shown}
    pushed = {ls_task: uid for uid, ls_tasks in (push or {}).items() for ls_task in ls_tasks}
    parsed = ParsedAnnotations()
    seen: set[str] = set()
    for record in records:
        if not isinstance(record, dict):
            parsed.set_aside.append(SetAside(id="ls:unknown", reason=f"a record that is no task: {_short(record)}"))
            continue
        parsed.drafts += len(_as_list(record.get("drafts")))
        group_id, orphaned = _group_of(record, groups, pushed)
        if group_id is not None:
            seen.add(group_id)
        for annotation in _as_list(record.get("annotations")):
            if (person := _person(annotation)) is not None:
                parsed.people.add(person)
            _sort_in(parsed, annotation, plan, group_id, orphaned)
    parsed.missing = sorted(set(plan.orders) - seen)
    for kind in (parsed.judgements, parsed.gold, parsed.skips, parsed.set_aside):
        kind.sort(key=lambda one: _number(one.id))
    return parsed


def _group_of(record: dict, groups: Mapping[str, str], pushed: Mapping[int, str]) -> tuple[str | None, str]:
    """The group that a task is about, or why that cannot be said."""
    data = record.get("data")
    uid = data.get("uid") if isinstance(data, dict) else None
    ls_task = record.get("id")
    pushed_as = pushed.get(ls_task) if isinstance(ls_task, int) else None
    if not isinstance(uid, str) or uid not in groups:
        return None, f"orphan: task {_short(ls_task)} carries the uid {_short(uid)}, which this epoch did not push"
    if pushed_as is not None and pushed_as != uid:
        return None, f"orphan: task {ls_task} was pushed as {pushed_as} and carries the uid {uid} now"
    return groups[uid], ""


def _sort_in(parsed: ParsedAnnotations, annotation: Any, plan: PushPlan, group_id: str | None, orphaned: str) -> None:
    identity = f"ls:{annotation.get('id')}" if isinstance(annotation, dict) else "ls:unknown"
    try:
        if not isinstance(annotation, dict):
            raise _NotAJudgement(f"not an annotation: {_short(annotation)}")
        if group_id is None:
            raise _NotAJudgement(orphaned)
        judge, updated_at = _judge(annotation), _utc(annotation)
        if annotation.get("was_cancelled"):
            parsed.skips.append(Skip(id=identity, group_id=group_id, judge=judge, updated_at=updated_at))
            return
        verdict, levels = _read_result(annotation.get("result"), plan.screen)
        judgement = Judgement(
            id=identity, group_id=group_id, judge=judge, verdict=verdict, trajectory_ids=_order(plan, group_id),
            levels=tuple((level,) for level in levels), updated_at=updated_at, seconds=_seconds(annotation),
        )  # fmt: skip
        (parsed.gold if group_id in plan.gold else parsed.judgements).append(judgement)
    except _NotAJudgement as reason:
        parsed.set_aside.append(SetAside(id=identity, reason=str(reason), group=group_id))


def _order(plan: PushPlan, group_id: str) -> tuple[str, ...]:
    known = plan.gold.get(group_id)
    return tuple(plan.orders[group_id]) if known is None else known.order


def _read_result(result: Any, screen: Screen) -> tuple[str, list[float]]:
    """[verdict, levels in presented order] of one result, or why it has none."""
    if not isinstance(result, list):
        raise _NotAJudgement(f"the result is not a list: {_short(result)}")
    if not result:
        raise _NotAJudgement("the result is empty")
    return _read_comparison(result, screen) if screen.kind == "compare" else _read_marks(result, screen)


def _read_comparison(result: list, screen: Screen) -> tuple[str, list[float]]:
    answers = [_choice(row, "prompt") for row in result if _control(row, {"preference", "comment"}) == "preference"]
    if len(answers) != 1:
        raise _NotAJudgement(f"one preference was expected, found {len(answers)}")
    if answers[0] not in COMPARE_VERDICTS:
        raise _NotAJudgement(f"the preference is {_short(answers[0])}, not one of {', '.join(COMPARE_VERDICTS)}")
    levels = {"left": [1.0, 0.0], "right": [0.0, 1.0]}.get(answers[0], [0.0, 0.0])
    return ("prefer" if answers[0] in ("left", "right") else answers[0]), levels


def _read_marks(result: list, screen: Screen) -> tuple[str, list[float]]:
    cells = {f"mark_{image}": image for image in range(screen.group_size)}
    levels = [0.0] * screen.group_size
    reviewed = False
    for row in result:
        control = _control(row, {*cells, "reviewed", "comment"})
        if control == "reviewed":
            answer = _choice(row, "prompt")
            if answer != "all_reviewed":
                raise _NotAJudgement(f"reviewed is {_short(answer)}, not all_reviewed")
            reviewed = True
        elif control in cells:
            answer = _choice(row, f"img_{cells[control]}")
            if answer != screen.choice:
                raise _NotAJudgement(f"{control} is {_short(answer)}, not {screen.choice}")
            levels[cells[control]] = -1.0
    if not reviewed:
        raise _NotAJudgement("all_reviewed was not chosen")
    return "mark", levels


def _control(row: Any, known: set[str]) -> str:
    name = row.get("from_name") if isinstance(row, dict) else None
    if not isinstance(name, str) or name not in known:
        raise _NotAJudgement(f"the screen has no control {_short(name)}")
    return name


def _choice(row: dict, to_name: str) -> Any:
    value = row.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    if row.get("type") != "choices" or row.get("to_name") != to_name:
        raise _NotAJudgement(f"{row['from_name']} is of type {_short(row.get('type'))} on {_short(row.get('to_name'))}")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], str):
        raise _NotAJudgement(f"{row['from_name']} has the choices {_short(choices)}, one was expected")
    return choices[0]


def _judge(annotation: dict) -> str:
    """``user:7``."""
    number = _person(annotation)
    if number is None:
        person = annotation.get("completed_by")
        raise _NotAJudgement(
            f"nobody is named as its author: {_short(person if not isinstance(person, dict) else None)}"
        )
    return f"user:{number}"


def _person(annotation: Any) -> int | None:
    """Who left it; Label Studio gives a number in exports and a record elsewhere."""
    person = annotation.get("completed_by") if isinstance(annotation, dict) else None
    number = person.get("id") if isinstance(person, dict) else person
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _utc(annotation: dict) -> str:
    """The time of the last change, in a form in which later sorts after earlier."""
    text = annotation.get("updated_at") or annotation.get("created_at")
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise _NotAJudgement(f"its time is not readable: {_short(text)}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="microseconds")


def _seconds(annotation: dict) -> float | None:
    seconds = annotation.get("lead_time")
    plausible = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < float("inf")
    return float(seconds) if plausible else None


def _number(identity: str) -> tuple[int, str]:
    digits = identity.removeprefix("ls:")
    return (int(digits), "") if digits.isdigit() and digits.isascii() else (-1, identity)


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
