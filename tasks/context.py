"""What every task of an epoch needs: the configuration, the run's folder and the epoch's number."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from d3po_core.records import Group
from storage.epoch import Epoch
from storage.errors import ConfigurationChangedError
from storage.layout import epoch_key
from storage.run import Run
from tasks.config import Configuration
from tasks.config_changes import changed_fields, current_fields
from tasks.config_reading import parse_configuration, root_and_name
from tasks.errors import UserError

__all__ = [
    "EpochContext",
    "base_model",
    "check_model",
    "create_run",
    "found_run",
    "open_run",
    "planned_context",
    "run_folder",
]


@dataclass(frozen=True, kw_only=True)
class EpochContext:
    """One epoch of one run, as the tasks pass it on: small, and without any array."""

    configuration: Configuration
    run: Run
    number: int

    @property
    def epoch(self) -> Epoch:
        """The epoch's folder: a new object each time, as each keeps every marker that it reads."""
        return self.run.epoch(self.number)

    @property
    def epoch_key(self) -> str:
        """``epochs/0003``: the epoch's folder within the run's."""
        return epoch_key(self.number)

    @cached_property
    def plan(self) -> dict:
        """The committed plan, which is written once and so read once.

        Raises:
            UserError: The epoch has none yet.
        """
        plan = self.epoch.plan()
        if plan is None:
            raise UserError(
                f"epoch {self.number} of {run_folder(self.configuration)} has no plan yet",
                remedy="d3po run CONFIG starts it",
            )
        return plan

    def groups(self) -> Mapping[str, Group]:
        """The planned groups by id."""
        return self._groups

    @cached_property
    def _groups(self) -> Mapping[str, Group]:
        return MappingProxyType({group["id"]: Group(**group) for group in self.plan["groups"]})

    @property
    def uid_prefix(self) -> str:
        """``<run_id>/<epoch>``: the Label Studio project's key, and what every uid starts with."""
        return f"{self.run.info['run_id']}/{self.number}"


def run_folder(configuration: Configuration) -> str:
    """The run's folder as an operator types it."""
    return f"{configuration.storage.root.rstrip('/')}/{configuration.run}"


def found_run(folder: str) -> tuple[Configuration, Run]:
    """The run in a folder, with the configuration that it was made with.

    Args:
        folder: The run's folder as typed, e.g. ``runs/demo`` or ``s3://bucket/runs/demo``.

    Raises:
        MissingDataError: There is no run.
    """
    root, name = root_and_name(folder)
    run = Run.open(root, name)
    configuration = parse_configuration(run.info["configuration"], f"{folder}/run.json")
    return configuration.model_copy(
        update={"storage": configuration.storage.model_copy(update={"root": root}), "run": name}
    ), run


def planned_context(configuration: Configuration, run: Run, number: int) -> EpochContext:
    """An epoch with its sampling and labels fields as its plan froze them, whatever the configuration says now."""
    plan = run.epoch(number).plan()
    if plan is not None:
        values = configuration.model_dump(mode="json")
        values["programmed"] |= plan.get("programmed", {})
        for path, value in current_fields(plan["frozen"]).items():
            *sections, field = path.split(".")
            place = values
            for section in sections:
                place = place[section]
            place[field] = value
        configuration = parse_configuration(values, f"{run.location}/{epoch_key(number)}/plan.json", of_a_plan=True)
    return EpochContext(configuration=configuration, run=run, number=number)


def open_run(configuration: Configuration) -> Run:
    """The existing run, after comparing what must not change.

    Raises:
        ConfigurationChangedError: Fields of class ``run`` differ from run.json; the message lists them.
        MissingDataError: No such run.
    """
    run = Run.open(configuration.storage.root, configuration.run)
    before = parse_configuration(run.info["configuration"], f"{run.location}/run.json").section_of_class("run")
    changes = changed_fields(configuration.section_of_class("run"), before)
    if changes:
        raise ConfigurationChangedError(
            f"{run_folder(configuration)} was made with another configuration:\n  " + "\n  ".join(changes),
            remedy="put these fields back, or choose another name with --run NAME",
        )
    return run


def create_run(configuration: Configuration) -> Run:
    """The run's folder, made on first use and compared with the configuration afterwards."""
    from d3po_core.model_files import hub_commit, model_digest

    model = configuration.model
    if not Run.exists(configuration.storage.root, configuration.run):
        Run.create(
            configuration.storage.root,
            configuration.run,
            {
                "configuration": configuration.model_dump(mode="json"),
                "model_digest": model_digest(model.path, model.revision),
                "model_commit": hub_commit(model.path, model.revision),
            },
        )
    run = open_run(configuration)
    check_model(configuration, run)
    return run


def base_model(context: EpochContext) -> tuple[str, str | None]:
    """The base model's folder or hub id, and the hub's commit that the run began with; a folder has none."""
    model = context.configuration.model
    return model.path, context.run.info.get("model_commit") or model.revision


def check_model(configuration: Configuration, run: Run) -> None:
    """Refuse to go on with other weights than the run began with.

    Raises:
        ConfigurationChangedError: The model's files have another digest.
    """
    from d3po_core.model_files import model_digest

    found = model_digest(configuration.model.path, configuration.model.revision)
    if found != run.info["model_digest"]:
        raise ConfigurationChangedError(
            f"the model at {configuration.model.path} has digest {found[:16]}…, but {run_folder(configuration)} was "
            f"made with {run.info['model_digest'][:16]}…: its files have changed",
            remedy="put the model's files back, or start another run with --run NAME",
        )
