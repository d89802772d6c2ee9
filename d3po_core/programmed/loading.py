"""An objective from its section of the configuration. torch and transformers are imported for the kinds that need them."""

from functools import partial
from typing import TYPE_CHECKING, Any

from d3po_core.programmed.config import (
    AestheticConfig,
    ClipScoreConfig,
    CommandConfig,
    PickScoreConfig,
    PythonConfig,
    VlmAlignmentConfig,
)
from d3po_core.programmed.objective import ProgrammedObjective

if TYPE_CHECKING:
    from d3po_core.programmed.config import ProgrammedConfig

__all__ = ["load_objective"]


def load_objective(name: str, config: "ProgrammedConfig", device: str = "auto") -> ProgrammedObjective:
    """Load what a section asks for; a command is started when it is first asked.

    Args:
        name: what it is called in the configuration.
        config: its section.
        device: as ``model.device`` has it.

    Raises:
        ObjectiveError: files are missing or do not fit, a target does not import.
    """
    function, unit = _KINDS[type(config)](config, device)
    return ProgrammedObjective(function, unit, name, config.batch_size)


def _aesthetic(config: AestheticConfig, device: str) -> tuple[Any, str]:
    from d3po_core.programmed.aesthetic import aesthetic_score, load_head

    clip = _clip(config, device)
    head = load_head(config.head, clip.model.config.projection_dim).to(clip.model.device)
    return partial(aesthetic_score, clip, head), "LAION's aesthetic score, about 1 to 10"


def _clip_score(config: ClipScoreConfig, device: str) -> tuple[Any, str]:
    from d3po_core.programmed.clip import clip_score

    return partial(clip_score, _clip(config, device)), "100 × the cosine of picture and prompt"


def _pick_score(config: PickScoreConfig, device: str) -> tuple[Any, str]:
    from d3po_core.programmed.clip import pick_score

    return partial(pick_score, _clip(config, device, config.processor)), "PickScore's logit, about 100 × the cosine"


def _vlm_alignment(config: VlmAlignmentConfig, device: str) -> tuple[Any, str]:
    from d3po_core.devices import pick_device, torch_dtype
    from d3po_core.programmed.alignment import Describer, vlm_alignment
    from d3po_core.programmed.bert_score import TextEncoder

    place: dict[str, Any] = {"dtype": torch_dtype(config.dtype), "device": pick_device(device)}
    describer = Describer(
        config.model, config.revision, question=config.question, max_new_tokens=config.max_new_tokens, **place
    )
    encoder = TextEncoder(config.encoder, config.encoder_revision, layer=config.encoder_layer, **place)
    return partial(vlm_alignment, describer, encoder, config.reference), "BERTScore's recall of the prompt"


def _python(config: PythonConfig, device: str) -> tuple[Any, str]:
    from d3po_core.programmed.target import import_target

    return import_target(config.target), config.unit or f"as {config.target} has it"


def _command(config: CommandConfig, device: str) -> tuple[Any, str]:
    from d3po_core.programmed.command import CommandWorker

    return CommandWorker(config.command, config.timeout), config.unit or f"as {config.command[0]} has it"


def _clip(
    config: AestheticConfig | ClipScoreConfig | PickScoreConfig, device: str, processor: str | None = None
) -> Any:
    from d3po_core.devices import pick_device, torch_dtype
    from d3po_core.programmed.clip import Clip

    return Clip(
        config.model, config.revision, processor=processor, dtype=torch_dtype(config.dtype), device=pick_device(device)
    )


_KINDS: dict[type, Any] = {
    AestheticConfig: _aesthetic,
    ClipScoreConfig: _clip_score,
    PickScoreConfig: _pick_score,
    VlmAlignmentConfig: _vlm_alignment,
    PythonConfig: _python,
    CommandConfig: _command,
}
