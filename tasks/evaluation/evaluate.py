"""Compare adapters with the pretrained model: images, every value, what they say together, sheets, one page.

Everything lies in ``<root>/evaluations/<name>/``. What is there and whole is not made again: a run that was killed, or
another adapter or objective that is added under the same name, costs what is missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from d3po_core.model_files import model_digest
from storage.documents import digest_of, encode
from storage.errors import ConfigurationChangedError
from storage.evaluation import Evaluation, Part
from storage.tables import EVALUATION, rows_to_bytes
from tasks.config import Configuration
from tasks.config_changes import changed_fields
from tasks.errors import UserError
from tasks.evaluation.candidate_images import generate_images, images_by_group
from tasks.evaluation.candidates import Candidate, candidates_of
from tasks.evaluation.evaluation_page import RESULTS_FORMAT, write_page
from tasks.evaluation.measures import measure_candidate, summary
from tasks.evaluation.names import BASE, group_of
from tasks.generation.prompts import read_prompts
from tasks.reports.figures import side_by_side

__all__ = ["evaluate"]

SHOWN = 32
"""Images of one candidate on a sheet."""


def evaluate(configuration: Configuration, adapters: Mapping[str, str], name: str | None = None) -> Evaluation:
    """Make what is missing of an evaluation, and write its results.

    Args:
        configuration: Names the model, the held-out prompts, the objectives, and how it is sampled.
        adapters: Name → ``runs/demo:3`` or an exported adapter's folder; the pretrained model is always compared.
        name: The evaluation's folder; the run's name where it is left out.

    Raises:
        UserError: No held-out prompts, or an adapter that cannot be compared.
        ConfigurationChangedError: The evaluation was begun with other prompts, model, seed or sampling.
    """
    prompts, candidates = _held_out_prompts(configuration), candidates_of(configuration, adapters)
    evaluation = Evaluation(configuration.storage.root, name or configuration.run)
    settings = _settle(evaluation, configuration, prompts)
    groups = [group_of(index, prompt) for index, prompt in enumerate(prompts)]
    rows: list[dict[str, Any]] = []
    for eta in configuration.evaluation.etas:
        parts = {
            candidate.name: generate_images(evaluation, configuration, candidate, eta, prompts)
            for candidate in candidates
        }
        for candidate, part in parts.items():
            rows += measure_candidate(evaluation, configuration, candidate, eta, part, parts[BASE], groups)
        evaluation.write(f"sheets/eta-{eta:g}.png", _sheet(evaluation, configuration, parts, prompts))
    evaluation.write("evaluation.parquet", rows_to_bytes(rows, EVALUATION))
    body = {
        "id": settings["id"],
        "name": evaluation.name,
        "settings": {key: value for key, value in settings.items() if key != "id"},
        "configuration": configuration.model_dump(mode="json"),
        "candidates": [_described(candidate) for candidate in candidates],
        "etas": list(configuration.evaluation.etas),
        "results": summary(rows, configuration),
    }
    evaluation.write("evaluation.json", encode(body, RESULTS_FORMAT))
    write_page(evaluation)
    return evaluation


def _settle(evaluation: Evaluation, configuration: Configuration, prompts: list[str]) -> dict[str, Any]:
    model, sampling = configuration.model, configuration.sampling
    settings = {
        "model_digest": model_digest(model.path, model.revision),
        "dtype": model.dtype,
        "seed": configuration.seed,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "latent_dtype": sampling.latent_dtype,
        "images_per_prompt": configuration.evaluation.images_per_prompt,
        "prompts": prompts,
    }
    settled = evaluation.settle(settings)
    changes = changed_fields(_comparable(settings), _comparable(settled))
    if changes:
        raise ConfigurationChangedError(
            f"the evaluation {evaluation.location} was begun with other values:\n  " + "\n  ".join(changes),
            remedy="put these back, or give this one another --name",
        )
    return settled


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a difference shows them: hundreds of prompts as their number and digest."""
    prompts = settings["prompts"]
    shown = {key: value for key, value in settings.items() if key != "id"}
    return shown | {"prompts": f"{len(prompts)} prompts, sha256 {digest_of(prompts)[:16]}…"}


def _held_out_prompts(configuration: Configuration) -> list[str]:
    if not configuration.evaluation.prompts:
        raise UserError(
            "evaluation.prompts is not set, expected a file of held-out prompts",
            remedy="set it in the configuration, or --evaluation.prompts FILE",
        )
    return read_prompts(configuration.evaluation.prompts)


def _described(candidate: Candidate) -> dict[str, Any]:
    return {field: getattr(candidate, field) for field in ("name", "source", "digest", "run_id", "epoch")}


def _sheet(
    evaluation: Evaluation, configuration: Configuration, parts: Mapping[str, Part], prompts: Sequence[str]
) -> bytes:
    """The first images of each prompt, as many as fit, a row for each candidate."""
    count = configuration.evaluation.images_per_prompt
    each = max(1, min(count, SHOWN // len(prompts)))
    groups = [group_of(index, prompt) for index, prompt in enumerate(prompts[: max(1, SHOWN // each)])]
    rows = {
        name: [image for images in images_by_group(evaluation, part, groups, count) for image in images[:each]]
        for name, part in parts.items()
    }
    return side_by_side(rows, [group.prompt for group in groups for _ in range(each)])
