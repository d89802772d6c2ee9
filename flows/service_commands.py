"""``d3po services up | down | status``: Label Studio, Prefect's server and its worker, for one machine."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.label_studio_server import ServicesError
from flows.service_settings import DEFAULT_FOLDER
from flows.services import Services
from flows.terminal import console, print_table

__all__ = ["services"]

services = typer.Typer(help="Label Studio, the Prefect server and a worker on this machine.", no_args_is_help=True)

FolderOption = Annotated[Path, typer.Option("--folder", help="Where the services keep ports, data and credentials.")]
RootOption = Annotated[Path, typer.Option("--root", help="The storage root, whose images Label Studio may show.")]
DEPLOYED = "deployed.sha256"


@services.command()
def up(folder: FolderOption = DEFAULT_FOLDER, root: RootOption = Path("runs")) -> None:
    """Make and start what is missing; a second time it only looks."""
    from flows.service_settings import load_environment
    from flows.services import up as start

    found = start(folder, document_root=root)
    load_environment(folder)
    _deploy(found)
    _print(found)


@services.command()
def down(folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Stop everything; nothing is deleted."""
    from flows.services import down as stop

    stopped = stop(folder)
    console.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@services.command()
def status(folder: FolderOption = DEFAULT_FOLDER) -> None:
    """What runs, and where it answers; exit 1 where something does not."""
    from flows.services import status as look

    found = look(folder)
    _print(found)
    if not found.healthy:
        console.print("next: d3po services up")
        raise typer.Exit(1)


def _deploy(found: Services) -> None:
    """Create the deployments of prefect.yaml, where it has changed since this folder's server last took it."""
    digest = hashlib.sha256(Path("prefect.yaml").read_bytes() + str(Path.cwd()).encode()).hexdigest()
    stamp = found.folder / DEPLOYED
    if stamp.is_file() and stamp.read_text() == digest:
        return
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise ServicesError(
            f"the deployments of prefect.yaml could not be made:\n{done.stdout[-2000:]}{done.stderr[-2000:]}",
            remedy="prefect --no-prompt deploy --all shows the same",
        )
    stamp.write_text(digest)


def _print(found: Services) -> None:
    print_table(
        ("service", "state", "answers", "detail"),
        ((one.name, one.state, "yes" if one.answers else "no", one.detail) for one in found.services),
    )
    console.print(f"Label Studio: {found.label_studio_url} (login in {found.credentials_file})")
    console.print(f"Prefect:      {found.prefect_url}")
