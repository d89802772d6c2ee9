"""The tables in the documents that follow from the code: ``python -m docs.tables`` writes them again.

A test compares them, so that they cannot fall behind.
"""

import json
import re
from pathlib import Path

from d3po_core.objectives.specs import OBJECTIVES
from flows.schema_table import field_rows
from tasks.config import Configuration
from tasks.config_reading import load_configuration
from tasks.costs import epoch_costs
from tasks.generation.prompts import read_prompts

__all__ = ["arithmetic_table", "configuration_table", "objectives_table", "stored", "write"]

REPOSITORY = Path(__file__).parents[1]
SD15_LATENT = (4, 64, 64)


def configuration_table() -> str:
    """Every field of the configuration."""
    rows = [
        f"| `{path}` | {_default(default)} | {frozen} | {meaning.replace('``', '`').replace('|', '/')} |"
        for path, default, frozen, meaning in field_rows()
    ]
    return "\n".join(["| field | default | frozen by | meaning |", "|---|---|---|---|", *rows])


def arithmetic_table() -> str:
    """What an epoch costs, by the configurations in configs/."""
    columns = {
        "`demo.yaml`": _costs(load_configuration(REPOSITORY / "configs/demo.yaml")),
        "`sd15-compare.yaml`": _costs(load_configuration(REPOSITORY / "configs/sd15-compare.yaml")),
        "`sd15-mark.yaml`": _costs(load_configuration(REPOSITORY / "configs/sd15-mark.yaml")),
        "compare, 4,000 prompts": _costs(
            load_configuration(REPOSITORY / "configs/sd15-compare.yaml", ["--prompts.groups_per_epoch", "4000"])
        ),
    }
    names = next(iter(columns.values()))
    rows = [f"| {name} | " + " | ".join(column[name] for column in columns.values()) + " |" for name in names]
    return "\n".join([f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *rows])


def objectives_table() -> str:
    """Every training objective, by what it says of itself."""
    rows = []
    for kind, spec in OBJECTIVES.items():
        held_to = " or ".join(f"`{name}`" for name in spec.references) or "–"
        fields = ", ".join(f"`{name}` {value}" for name, value in spec.defaults.items()) or "–"
        over = spec.terms if spec.couples == "trajectory" else f"{spec.terms} × transitions"
        rows.append(
            f"| [`{kind}`](#{kind}) | {spec.title} | {spec.labels} | {over} | {spec.initial_noise} | {held_to} | {fields} |"
        )
    head = "| kind | source | learns from | the mean is over | x_T of a group | reference | fields and defaults |"
    return "\n".join([head, "|---" * 7 + "|", *rows])


def stored(document: Path, name: str) -> str:
    """The table that stands in a document between ``<!-- name -->`` and ``<!-- /name -->``."""
    found = _between(name).search(document.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{document} has no place for the table {name}")
    return found[2].strip()


def write() -> None:
    """Put the tables into their documents."""
    for document, name, table in (
        (REPOSITORY / "docs/configuration.md", "configuration", configuration_table()),
        (REPOSITORY / "docs/methods.md", "objectives", objectives_table()),
        (REPOSITORY / "README.md", "arithmetic", arithmetic_table()),
    ):
        text = document.read_text(encoding="utf-8")
        document.write_text(
            _between(name).sub(lambda found, new=table: f"{found[1]}\n{new}\n{found[3]}", text), "utf-8"
        )


def _costs(configuration: Configuration) -> dict[str, str]:
    held_out = (
        len(read_prompts(str(REPOSITORY / configuration.evaluation.prompts))) if configuration.evaluation.prompts else 0
    )
    costs = epoch_costs(configuration, _latent(configuration.model.path), held_out)
    groups, sampling = configuration.prompts.groups_per_epoch, configuration.sampling
    return {
        "groups G × images k × steps T": f"{groups:,} × {sampling.group_size} × {sampling.num_inference_steps}",
        "images G·k": f"{costs.images:,}",
        "judgements G·j": f"{costs.judgements:,}",
        "pairs at most": f"{costs.pairs:,}",
        "network evaluations to sample 2·G·(k·T − k + 1)": f"{costs.sampling_evaluations:,}",
        "… with gradient, to train, at most 2·G·(k·S − k + 1)·e": f"{costs.training_evaluations:,}",
        "… for the held-out images, before and after 2·2·P·T": f"{costs.held_out_evaluations:,}",
        "… and the pretrained model's, from the second epoch on 2·P·T": f"{costs.pretrained_held_out_evaluations:,}",
        "optimizer steps at most e·⌈G/g⌉": f"{costs.optimizer_steps:,}",
        "one trajectory (T+1)·C·H·W·b": f"{costs.trajectory_bytes / 1e6:.3f} MB",
        "trajectories of the epoch": f"{costs.latents_bytes / 1e6:,.1f} MB",
    }


def _latent(model: str) -> tuple[int, int, int]:
    """C, H, W of a bundled model from its file; of anything else Stable Diffusion 1.5's."""
    config = REPOSITORY / model / "unet" / "config.json"
    if not config.is_file():
        return SD15_LATENT
    unet = json.loads(config.read_text(encoding="utf-8"))
    return unet["in_channels"], unet["sample_size"], unet["sample_size"]


def _default(text: str) -> str:
    return {"required": "required", "None": "empty", "": "empty"}.get(text, f"`{text}`")


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->)\n(.*?)\n?(<!-- /{name} -->)", re.DOTALL)


if __name__ == "__main__":
    write()
