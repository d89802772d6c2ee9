"""Label Studio, spoken to so that every request has happened once, not at all, or is reported.

The server removes no duplicates, and a client that gave up has not cancelled its import. So nothing that creates is
ever repeated blindly: after a fault we read back what is there. A list that ends early is compared with the server's
count, an export with the project's tasks. Everything has a deadline.

The only module that imports ``label_studio_sdk`` (about a second, and opencv).
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from label_studio_sdk.client import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.types import LseTaskFilterOptionsRequest, SerializationOptionRequest, SerializationOptionsRequest

from .errors import (
    BadExportError,
    ProjectGoneError,
    PushConflictError,
    ScreenChangedError,
    UnreachableError,
    WrongKeyError,
)
from .exporting import annotated_tasks, export_tasks
from .faults import KEY_REMEDY, explained_connection, explained_status
from .importing import import_exactly_once
from .screens import Screen, labeling_digest
from .transport import client_with_deadlines

__all__ = ["LabelStudioClient"]

log = logging.getLogger(__name__)
T = TypeVar("T")

REQUEST_SECONDS = 60.0
IMPORT_SECONDS = 300.0
EXPORT_SECONDS = 600.0
READ_ATTEMPTS = 3
WRITE_ROUNDS = 4
PAGE = 1000
LOOK_AGAIN_SECONDS = 2.0
TITLE_LENGTH = 50


class LabelStudioClient:
    """One Label Studio and one of its users. Made by ``connect``."""

    def __init__(self, url: str, sdk: LabelStudio) -> None:
        self.url = url
        self._sdk = sdk

    @classmethod
    def connect(cls, url: str, api_key: str, *, seconds: float = REQUEST_SECONDS) -> "LabelStudioClient":
        """Reach a Label Studio and check the key.

        Args:
            url: Such as ``http://127.0.0.1:8080``.
            api_key: A legacy token or a personal access token.
            seconds: The time limit of an ordinary request.

        Raises:
            UnreachableError: Nobody answers there, or something else than Label Studio.
            WrongKeyError: The key is not accepted.
        """
        url = url.rstrip("/")
        with _explained(f"connecting to {url}", url):
            # An httpx client of one's own takes the SDK's time-out away: it has to be given twice.
            sdk = LabelStudio(
                base_url=url, api_key=api_key, timeout=seconds, max_retries=0,
                httpx_client=client_with_deadlines(url, seconds),
            )  # fmt: skip
        client = cls(url, sdk)
        version = client._read("asking for its version", sdk.versions.get)
        if not getattr(version, "release", None):
            raise UnreachableError(
                f"{url} answers, but not like a Label Studio.", "check LABEL_STUDIO_URL, or d3po services status"
            )
        person = client._read("asking whose key this is", sdk.users.whoami)
        if not isinstance(getattr(person, "id", None), int):
            raise WrongKeyError(f"{url} does not say whose key LABEL_STUDIO_API_KEY is.", KEY_REMEDY)
        return client

    # Projects

    def ensure_project(
        self, key: str, title: str, screen: Screen, judgements_per_group: int, media_path: str | None
    ) -> int:
        """The project of one epoch: found again by its key, or made.

        Args:
            key: ``<run_id>/<epoch>``; stands in the project's description.
            title: For people; cut to 50 characters.
            screen: What they see.
            judgements_per_group: Distinct people who are asked about each comparison.
            media_path: Absolute folder strictly below Label Studio's document root, as its server sees it, whose files
                it may serve; None where images have addresses of their own.

        Returns:
            Its number; of two with one key (two pushes at the same moment) always the older.

        Raises:
            ScreenChangedError: It exists with another labeling configuration.
        """
        project = self._find_project(key)
        for _ in range(WRITE_ROUNDS):
            if project is not None:
                break
            try:
                with _explained("making a project", self.url):
                    self._sdk.projects.create(**_project_settings(key, title, screen, judgements_per_group))
            except UnreachableError as fault:
                log.warning("%s; looking whether the project was made all the same", fault.message)
                time.sleep(LOOK_AGAIN_SECONDS)
            project = self._find_project(key)
        if project is None:
            raise UnreachableError(f"a project for {key} could not be made at {self.url}.", "d3po services status")
        self.check_screen(project, screen)
        if media_path is not None:
            self._ensure_storage(project, media_path)
        return project

    def check_screen(self, project: int, screen: Screen) -> None:
        """Raise ScreenChangedError unless people see this screen."""
        found = labeling_digest(self._project(project).label_config or "")
        if found != screen.digest:
            raise ScreenChangedError(
                f"the labeling configuration of project {project} at {self.project_url(project)} was changed: expected "
                f"{screen.digest[:16]}…, found {found[:16]}… (sha256). Answers would not mean what was asked.",
                "put the labeling configuration back (it stands in labels/push-plan-*/push-plan.json), then d3po run",
            )

    def project_url(self, project: int) -> str:
        """Where people judge."""
        return f"{self.url}/projects/{project}/data?labeling=1"

    # Tasks

    def import_exactly_once(self, project: int, items: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
        """Import what is not there yet, and read back that all of it is.

        Args:
            items: Data of the comparisons, each with its own ``uid``.

        Returns:
            uid to the tasks that carry it. More than one only where an earlier import came through after it had been
            given up for lost; both count.

        Raises:
            PushConflictError: A task of this uid with other data exists, or tasks keep missing after several rounds.
        """
        return import_exactly_once(self, project, items)

    def import_chunk(self, project: int, items: Sequence[Mapping[str, Any]]) -> None:
        """One import, asked for once; whatever goes wrong, it may have happened.

        Raises:
            UnreachableError: No answer, or none that says that it was refused.
        """
        with _explained(f"importing {len(items)} comparisons", self.url, project):
            self._sdk.projects.import_tasks(
                project, request=[{"data": item} for item in items],
                request_options={"max_retries": 0, "timeout": IMPORT_SECONDS},
            )  # fmt: skip

    def ask_more_people(self, ls_tasks: Collection[int], people: int) -> None:
        """Have Label Studio's queue show these tasks to so many distinct people, whatever the project says.

        Only after the last import: a project whose settings change spreads its own number over all its tasks.
        """
        for ls_task in sorted(ls_tasks):
            self._read(f"setting the overlap of task {ls_task}", lambda id=ls_task: self._overlap(id, people))

    def remove_tasks(self, ls_tasks: Collection[int]) -> None:
        """Take tasks out of their project, with whatever was said of them; those that are gone already are no fault."""
        for ls_task in sorted(ls_tasks):
            with suppress(LookupError):
                self._read(f"removing task {ls_task}", lambda id=ls_task: self._sdk.tasks.delete(str(id)))

    def count(self, project: int) -> int:
        """How many tasks the project has, by the server's own list."""
        self._project(project)
        answer = self._read(
            "counting its tasks", lambda: self._sdk.tasks.list(project=project, page=1, page_size=1), project
        )
        total = getattr(answer.response, "total", None)
        if not isinstance(total, int):
            raise UnreachableError(
                f"{self.url} does not say how many tasks project {project} has.", "d3po services status"
            )
        return total

    def answers(self, project: int) -> int:
        """Annotations and skips that the project has, valid or not; counted by the server at this moment."""
        found = self._project(project)
        counts = (found.total_annotations_number, found.skipped_annotations_number)
        if not all(isinstance(count, int) for count in counts):
            raise UnreachableError(
                f"{self.url} does not say how many annotations project {project} has.", "d3po services status"
            )
        return sum(counts)

    def tasks(self, project: int) -> dict[str, list[tuple[int, dict]]]:
        """uid to (task, data) of the whole project, complete or an error: a later page can be missing silently."""
        for _ in range(READ_ATTEMPTS):
            expected = self.count(project)
            rows = self._list_tasks(project, expected)
            if len(rows) == expected:
                break
        else:
            raise PushConflictError(
                f"project {project} has {expected} tasks and lists {len(rows)}, even when asked again.",
                "d3po run CONFIG, to try again",
            )
        found: dict[str, list[tuple[int, dict]]] = {}
        for ls_task, data in sorted(rows.items()):
            found.setdefault(str(data.get("uid")), []).append((ls_task, data))
        return found

    def annotations(self, project: int) -> Iterator[dict]:
        """The tasks that people have touched, with their annotations, shaped as in an export."""
        return annotated_tasks(self, project)

    def export(self, project: int, path: Path) -> None:
        """Write everything that people said to a gzipped JSON file, untouched; users by number, drafts by number.

        Raises:
            BadExportError: After several attempts it still does not hold the project's tasks.
        """
        export_tasks(self, project, path)

    def make_snapshot(self, project: int, *, only_annotated: bool) -> int:
        """Have an export made; its number."""
        by_number = SerializationOptionRequest(only_id=True)
        with _explained(f"exporting project {project}", self.url, project):
            snapshot = self._sdk.projects.exports.create(
                project,
                serialization_options=SerializationOptionsRequest(
                    drafts=by_number, predictions=by_number, annotations__completed_by=by_number,
                    interpolate_key_frames=False,
                ),
                task_filter_options=LseTaskFilterOptionsRequest(only_with_annotations=only_annotated),
                request_options={"timeout": EXPORT_SECONDS},
            )  # fmt: skip
        number = getattr(snapshot, "id", None)
        if not isinstance(number, int):
            raise BadExportError(
                f"{self.url} did not make an export of project {project}.", "d3po run CONFIG, to ask again"
            )
        return number

    def snapshot_status(self, project: int, number: int) -> str:
        """``completed``, ``failed``, or something before."""
        with _explained("asking for an export", self.url, project):
            return str(self._sdk.projects.exports.get(project, number).status)

    def read_snapshot(self, project: int, number: int) -> Iterator[bytes]:
        """The export's JSON, in pieces, the whole within its deadline."""
        with _explained(f"downloading the export of project {project}", self.url, project):
            yield from self._sdk.projects.exports.download(
                project, number, request_options={"timeout": EXPORT_SECONDS, "chunk_size": 1 << 20}
            )

    def remove_snapshot(self, project: int, number: int) -> None:
        """Free the server's disk of it."""
        with _explained("removing an export", self.url, project):
            self._sdk.projects.exports.delete(project, number)

    # Annotations, for simulated people

    def annotate(self, ls_task: int, result: Sequence[dict], user: int | None = None, seconds: float = 0.0) -> int:
        """Leave an annotation as a person would; ``user`` None is the key's own. Returns its number."""
        return self._leave(ls_task, result=list(result), user=user, seconds=seconds, skipped=False)

    def skip(self, ls_task: int, user: int | None = None) -> int:
        """Pass over a task as a person would. Returns the annotation's number."""
        return self._leave(ls_task, result=[], user=user, seconds=0.0, skipped=True)

    # People

    def whoami(self) -> int:
        """The number of the key's own user."""
        return self._read("asking whose key this is", self._sdk.users.whoami).id

    def users(self) -> list[dict[str, Any]]:
        """Everybody who is known to this Label Studio: user, name, email. Personal data."""
        users = self._read("listing its users", self._sdk.users.list)
        return [
            {
                "user": user.id,
                "name": f"{user.first_name or ''} {user.last_name or ''}".strip(),
                "email": user.email or "",
            }
            for user in users
        ]

    def people(self, users: Collection[int]) -> list[dict[str, Any]]:
        """Who has these numbers: user, name, email. Personal data, for ``people.parquet`` alone."""
        return [person for person in self.users() if person["user"] in users]

    def create_user(self, email: str, name: str = "") -> int:
        """A user for simulated annotators, found again by e-mail; cannot log in. Returns the number."""
        for _ in range(WRITE_ROUNDS):
            known = {person["email"]: person["user"] for person in self.users()}
            if email in known:
                return known[email]
            try:
                with _explained(f"making the user {email}", self.url):
                    self._sdk.users.create(username=email.split("@")[0], email=email, first_name=name)
            except UnreachableError as fault:
                log.warning("%s; looking whether the user was made all the same", fault.message)
        raise UnreachableError(f"the user {email} could not be made at {self.url}.", "d3po services status")

    # Below: one request each

    def _project(self, project: int) -> Any:
        found = self._read(f"reading project {project}", lambda: self._sdk.projects.get(project), project)
        if getattr(found, "id", None) != project:
            raise UnreachableError(
                f"{self.url} does not answer properly about project {project}.", "d3po services status"
            )
        return found

    def _find_project(self, key: str) -> int | None:
        found: list[int] = []
        seen, total, page = 0, 1, 1
        while seen < total:
            answer = self._read(
                "listing its projects", lambda page=page: self._sdk.projects.list(page=page, page_size=PAGE)
            )
            total = getattr(answer.response, "count", None)
            if total is None or (not answer.items and seen < total):
                raise UnreachableError(f"the list of projects at {self.url} is cut short.", "d3po services status")
            found += [item.id for item in answer.items or [] if _mark(key) in (item.description or "")]
            seen += len(answer.items or [])
            page += 1
        return min(found, default=None)

    def _ensure_storage(self, project: int, media_path: str) -> None:
        """Local files answer 404 until a storage connection covers them. It is never synchronised."""
        for _ in range(WRITE_ROUNDS):
            known = self._read(
                "listing its storage", lambda: self._sdk.import_storage.local.list(project=project), project
            )
            if any(storage.path == media_path for storage in known):
                return
            try:
                with _explained("connecting the images' folder", self.url, project):
                    self._sdk.import_storage.local.create(
                        project=project, path=media_path, use_blob_urls=False, regex_filter="^$", title="D3PO images"
                    )
            except UnreachableError as fault:
                log.warning("%s; looking whether it was connected all the same", fault.message)
        raise UnreachableError(f"{media_path} could not be connected to project {project}.", "d3po services status")

    def _list_tasks(self, project: int, expected: int) -> dict[int, dict]:
        rows: dict[int, dict] = {}
        for page in range(1, -(-expected // PAGE) + 1):
            answer = self._read(
                "listing its tasks",
                lambda page=page: self._sdk.tasks.list(
                    project=project, page=page, page_size=PAGE, include="id,data", fields="task_only", resolve_uri=False
                ),
                project,
            )
            rows |= {task.id: task.data or {} for task in answer.items or []}
        return rows

    def _leave(self, ls_task: int, *, result: list[dict], user: int | None, seconds: float, skipped: bool) -> int:
        author = {} if user is None else {"completed_by": user}
        try:
            with _explained(f"annotating task {ls_task}", self.url):
                made = self._sdk.annotations.create(
                    ls_task, result=result, was_cancelled=skipped, lead_time=seconds, ground_truth=False, **author
                )
        except LookupError:
            raise ProjectGoneError(f"there is no task {ls_task} at {self.url} any more.", "d3po status RUN") from None
        return made.id

    def _overlap(self, ls_task: int, people: int) -> None:
        found = self._sdk.tasks.update(id=str(ls_task), overlap=people).overlap
        if found != people:
            raise UnreachableError(
                f"{self.url} shows task {ls_task} to {found} people, {people} were asked for.", "d3po services status"
            )

    def _read(self, doing: str, call: Callable[[], T], project: int | None = None) -> T:
        """A request that changes nothing, or the same each time, asked again when it does not come through."""
        for attempt in range(READ_ATTEMPTS):
            try:
                with _explained(doing, self.url, project):
                    return call()
            except UnreachableError:
                if attempt + 1 == READ_ATTEMPTS:
                    raise
                time.sleep(0.3 * 2**attempt)
        raise AssertionError("unreachable")


@contextmanager
def _explained(doing: str, url: str, project: int | None = None) -> Iterator[None]:
    """Turn what the SDK and httpx raise into what an operator can act on."""
    try:
        with explained_connection(doing, url):
            yield
    except ApiError as error:
        raise explained_status(error.status_code, error.body, doing, url, project) from error


def _project_settings(key: str, title: str, screen: Screen, judgements_per_group: int) -> dict[str, Any]:
    return {
        "title": title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1] + "…",
        "description": f"Made by D3PO and found again by this mark, please leave it: {_mark(key)}",
        "label_config": screen.labeling_config,
        "expert_instruction": screen.instructions,
        # Hotkeys act even while the dialog covers the screen, so it is not opened unasked.
        "show_instruction": False,
        "maximum_annotations": judgements_per_group,
        "show_skip_button": True,
        "skip_queue": "REQUEUE_FOR_OTHERS",
        "enable_empty_annotation": False,
        "show_collab_predictions": False,
        "sampling": "Sequential sampling",
    }


def _mark(key: str) -> str:
    return f"[d3po:{key}]"
