"""The team's compose.yaml: what docker compose says of it where there is one, and what has to hold in any case."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.label_studio_server import label_studio_environment

REPOSITORY = Path(__file__).parents[1]
SERVICES = {"postgres", "databases", "prefect-server", "deploy", "label-studio", "worker"}
ONE_SHOTS = {"databases", "deploy"}
RUNS = "/app/runs"
SECRET = re.compile(r"PASSWORD|TOKEN|API_KEY|SECRET")
NO_SECRETS = {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"}
REQUIRED = re.compile(r"\$\{[A-Z0-9_]+:\?[^}]+\}")
REFERENCE = re.compile(r"(?<!\$)\$\{([A-Z0-9_]+)(?:(:[-?])([^}]*))?\}")

Compose = dict[str, Any]


def read(name: str) -> Compose:
    return yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))


def example() -> dict[str, str]:
    lines = (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def mounts(service: Compose) -> dict[str, tuple[str, bool]]:
    """Target → (source, whether it is read-only)."""
    found = {}
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            found[target] = (source, mode == ["ro"])
        else:
            found[volume["target"]] = (volume["source"], volume.get("read_only", False))
    return found


def problems(compose: Compose) -> list[str]:
    """What is wrong with it, a line each; nothing where all is well."""
    services = compose["services"]
    found = [f"services: {sorted(services)}"] if set(services) != SERVICES else []
    for name, service in services.items():
        found += [f"{name}: {problem}" for problem in service_problems(name, service, services)]
    worker, label_studio = services.get("worker", {}), services.get("label-studio", {})
    shared = {mounts(worker).get(RUNS, ("", False))[0], mounts(label_studio).get(RUNS, (None, False))[0]}
    if len(shared) != 1:
        found.append(f"worker and label-studio see different folders at {RUNS}: {shared}")
    if not mounts(label_studio).get(RUNS, ("", False))[1]:
        found.append("label-studio may write to the runs")
    for service in (worker, label_studio):
        if service.get("environment", {}).get("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT") != RUNS:
            found.append(f"a document root that is not {RUNS}")
    lease = (
        services.get("prefect-server", {}).get("environment", {}).get("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "")
    )
    if not lease.endswith(".filesystem"):
        found.append("prefect-server keeps its leases in memory")
    return found


def service_problems(name: str, service: Compose, services: dict[str, Compose]) -> list[str]:
    found = []
    tag = service.get("image", "").rpartition(":")[2]
    if not re.match(r"\d", tag):
        found.append(f"the image {service.get('image')!r} is not pinned")
    for port in service.get("ports", []):
        if not str(port).startswith("127.0.0.1:"):
            found.append(f"the port {port} is open to others")
    for variable, value in service.get("environment", {}).items():
        if SECRET.search(variable) and variable not in NO_SECRETS and not REQUIRED.fullmatch(str(value)):
            found.append(f"{variable} is not a required variable with a message: {value!r}")
    if "privileged" in service or "docker.sock" in str(service.get("volumes")):
        found.append("has more rights than it needs")
    if name in ONE_SHOTS:
        if service.get("restart") != "no":
            found.append("is one shot and is restarted")
    elif "healthcheck" not in service or service.get("restart") != "unless-stopped":
        found.append("runs on and has no healthcheck, or is not restarted")
    for other, how in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
        if other not in services or how.get("condition") != expected:
            found.append(f"depends on {other} with {how}, expected {expected}")
    return found


def test_the_structure_holds() -> None:
    assert problems(read("compose.yaml")) == []


MUTATIONS: dict[str, Callable[[dict[str, Compose]], object]] = {
    "a port for everybody": lambda s: s["label-studio"].update(ports=["8080:8080"]),
    "a port on all interfaces": lambda s: s["prefect-server"].update(ports=["0.0.0.0:4200:4200"]),
    "a password in the file": lambda s: s["postgres"]["environment"].update(POSTGRES_PASSWORD="postgres"),
    "a password with a default": lambda s: s["postgres"]["environment"].update(
        POSTGRES_PASSWORD="${POSTGRES_PASSWORD:-x}"
    ),
    "a key that may be empty": lambda s: s["worker"]["environment"].update(
        LABEL_STUDIO_API_KEY="${LABEL_STUDIO_API_KEY}"
    ),
    "any version": lambda s: s["label-studio"].update(image="heartexlabs/label-studio:latest"),
    "no version": lambda s: s["postgres"].update(image="postgres"),
    "no healthcheck": lambda s: s["prefect-server"].pop("healthcheck"),
    "started before it is ready": lambda s: s["databases"]["depends_on"].update(
        postgres={"condition": "service_started"}
    ),
    "deployed for ever": lambda s: s["deploy"].update(restart="always"),
    "no worker": lambda s: s.pop("worker"),
    "other folders": lambda s: s["worker"].update(volumes=["runs:/app/runs"]),
    "an unknown service": lambda s: s["worker"]["depends_on"].update(redis={"condition": "service_healthy"}),
    "leases in memory": lambda s: s["prefect-server"]["environment"].pop("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_file_is_found_out(name: str) -> None:
    compose = copy.deepcopy(read("compose.yaml"))
    MUTATIONS[name](compose["services"])
    assert problems(compose), name


def test_every_variable_is_in_the_example_and_no_secret_is() -> None:
    text = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
    used = {name: kind for name, kind, _ in REFERENCE.findall(text)}
    given = example()
    assert set(used) == set(given), "compose.yaml and .env.example name other variables"
    required = {name for name, kind in used.items() if kind == ":?"}
    assert {name for name, value in given.items() if value} & required == set(), "a required variable has a value"
    assert not [name for name, value in given.items() if SECRET.search(name) and value]


def test_label_studio_is_configured_as_by_services_up() -> None:
    own = label_studio_environment(
        data=Path("/label-studio/data"), document_root=Path(RUNS), email="e", password="p", token="t"
    )
    del own["PYTHONPATH"], own["LABEL_STUDIO_USERNAME"], own["LABEL_STUDIO_PASSWORD"], own["LABEL_STUDIO_USER_TOKEN"]
    environment = read("compose.yaml")["services"]["label-studio"]["environment"]
    assert own.pop("LABEL_STUDIO_ALLOWED_HOSTS") in environment["LABEL_STUDIO_ALLOWED_HOSTS"]
    assert {name: environment.get(name) for name in own} == own


def test_the_gpu_is_only_added() -> None:
    override = read("compose.gpu.yaml")["services"]
    assert set(override) == {"worker"}
    (device,) = override["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "gpu" in device["capabilities"]


def test_the_image_runs_as_nobody_in_particular() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith(("#", " "))]
    assert [rest for key, *rest in words if key == "USER"][-1] == ["d3po"]
    assert not [rest for key, *rest in words if key == "FROM" and not re.search(r":\d", rest[0])]
    assert "constraints.txt" in " ".join(lines)
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".env", ".env.*", ".services", "runs", ".git"} <= set(ignored)


def docker_compose() -> list[str] | None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        return None
    return [docker, "compose", "--project-directory", str(REPOSITORY)]


def configured(tmp_path: Path, *files: str, missing: str | None = None) -> subprocess.CompletedProcess[str]:
    """``docker compose config`` with every variable set, but for one."""
    command = docker_compose()
    if command is None:
        pytest.skip("there is no docker compose here; the structure is checked above")
    values = {name: value or "0123456789abcdef" for name, value in example().items() if name != missing}
    file = tmp_path / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    environment = {name: value for name, value in os.environ.items() if name not in example()}
    chosen = [part for name in files for part in ("-f", str(REPOSITORY / name))]
    command += ["--env-file", str(file), *chosen, "config", "-q"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_docker_compose_takes_it(files: tuple[str, ...], tmp_path: Path) -> None:
    done = configured(tmp_path, *files)
    assert done.returncode == 0, done.stderr


def test_docker_compose_names_what_is_not_set(tmp_path: Path) -> None:
    done = configured(tmp_path, "compose.yaml", missing="LABEL_STUDIO_API_KEY")
    assert done.returncode != 0
    assert "set LABEL_STUDIO_API_KEY" in done.stderr
