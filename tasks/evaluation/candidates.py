"""What an evaluation compares: the pretrained model, an epoch of a run, or an exported adapter's folder."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d3po_core.adapters import read_exported
from d3po_core.config import LoraConfig
from d3po_core.model_files import model_digest
from d3po_core.policy import Policy
from tasks.config import Configuration
from tasks.context import found_run, planned_context
from tasks.errors import UserError
from tasks.evaluation.names import BASE
from tasks.exchange.provenance import ADAPTER_FILE, PROVENANCE, provenance_of
from tasks.log import logger
from tasks.policies import policy_for, state_after

__all__ = ["Candidate", "candidates_of", "policy_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One of the policies that are compared."""

    name: str
    source: str
    """As it was given, e.g. ``runs/demo:3``; for the base model its path."""
    digest: str
    """sha256 of the adapter's tensors, or the pretrained model's digest."""
    lora: LoraConfig | None
    """None for the pretrained model."""
    state: Mapping[str, torch.Tensor] | None
    run_id: str | None = None
    """Of the run that trained it, where that is known."""
    epoch: int | None = None


def candidates_of(configuration: Configuration, adapters: Mapping[str, str]) -> list[Candidate]:
    """The pretrained model and the given adapters, looked up before anything is computed.

    Args:
        configuration: Names the pretrained model.
        adapters: Name → ``runs/demo:3`` (an epoch), ``runs/demo`` (its last sealed one) or an adapter's folder.

    Raises:
        UserError: A name that cannot be one, no such adapter, or one of another model.
    """
    # Names become file names, which some systems take for the same in either case.
    seen = Counter([BASE, *(name.lower() for name in adapters)])
    wrong = [
        name for name in adapters if seen[name.lower()] > 1 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,31}", name)
    ]
    if wrong:
        raise UserError(
            f"{wrong[0]!r} cannot name a candidate: expected letters, digits and _, other than {BASE!r} and any other "
            "candidate's in either case",
            remedy="--adapter NAME=RUN:EPOCH, e.g. --adapter A=runs/demo:0",
        )
    model = configuration.model
    digest = model_digest(model.path, model.revision)
    base = Candidate(name=BASE, source=model.path, digest=digest, lora=None, state=None)
    return [base, *(_adapter(name, source, digest) for name, source in adapters.items())]


def policy_of(configuration: Configuration, candidate: Candidate, eta: float) -> Policy:
    """The process's policy, sampling with this η, with the candidate's adapter."""
    policy = policy_for(
        configuration.model_copy(
            update={
                "sampling": configuration.sampling.model_copy(update={"eta": eta}),
                "lora": candidate.lora or configuration.lora,
            }
        )
    )
    if candidate.state is not None:
        policy.load_lora_state(dict(candidate.state))
    return policy


def _adapter(name: str, source: str, expected_model: str) -> Candidate:
    file = Path(source, ADAPTER_FILE)
    if not file.is_file():
        return _epoch_of_run(name, source, expected_model)
    provenance = _checked_provenance(name, source, expected_model)
    lora, state = read_exported(file)
    return Candidate(
        name=name, source=source, digest=_digest(lora, state), lora=lora, state=state,
        run_id=provenance.get("run_id"), epoch=provenance.get("epoch"),
    )  # fmt: skip


def _checked_provenance(name: str, source: str, expected_model: str) -> dict[str, Any]:
    """What stands beside an exported adapter, whose file itself does not say which model it was trained on."""
    provenance = provenance_of(Path(source)) or {}
    if "model_digest" in provenance:
        found, folder = provenance["model_digest"], provenance["run_folder"]
        _refuse_other_model(name, source, "adapter", found, expected_model, folder)
    else:
        # Adapters from elsewhere and of earlier versions; one of another architecture is refused when it is loaded.
        logger().warning(
            "--adapter %s=%s: no %s there says which model it was trained on; expected is the evaluation's, %s…; "
            "d3po export of its run says so",
            name, source, PROVENANCE, expected_model[:16],
        )  # fmt: skip
    return provenance


def _refuse_other_model(name: str, source: str, what: str, found: str, expected: str, folder: str) -> None:
    if found != expected:
        raise UserError(
            f"--adapter {name}={source}: that {what} has model {found[:16]}…, the evaluation {expected[:16]}…: "
            "adapters of different models cannot be compared with one base",
            remedy=f"evaluate with {folder}'s own configuration: d3po evaluate {folder}",
        )


def _epoch_of_run(name: str, source: str, expected_model: str) -> Candidate:
    folder, colon, number = source.rpartition(":")
    if not colon or not number.isdigit():
        folder, number = source, ""
    configuration, run = found_run(folder)
    sealed = run.sealed_epochs()
    if not sealed or (number and int(number) not in sealed):
        raise UserError(
            f"--adapter {name}={source}: {folder} has no sealed epoch {number}".rstrip()
            + f"; it has {sealed or 'none'}",
            remedy=f"d3po status {folder}",
        )
    _refuse_other_model(name, source, "run", run.info["model_digest"], expected_model, folder)
    context = planned_context(configuration, run, int(number) if number else sealed[-1])
    lora, state = configuration.lora, dict(state_after(context, context.number).lora)
    return Candidate(
        name=name, source=source, digest=_digest(lora, state), lora=lora, state=state,
        run_id=run.run_id, epoch=context.number,
    )  # fmt: skip


def _digest(lora: LoraConfig, state: Mapping[str, torch.Tensor]) -> str:
    total = hashlib.sha256(f"{lora.rank} {lora.alpha:g}".encode())
    for name in sorted(state):
        total.update(name.encode() + b"\0" + state[name].contiguous().numpy().tobytes())
    return total.hexdigest()
