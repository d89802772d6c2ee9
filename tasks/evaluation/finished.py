"""An evaluation that was made, found again by its folder."""

from storage.evaluation import Evaluation
from tasks.config import Configuration
from tasks.config_reading import parse_configuration
from tasks.errors import UserError
from tasks.evaluation.evaluation_page import results_of

__all__ = ["configuration_of", "open_evaluation"]


def open_evaluation(folder: str) -> Evaluation:
    """The evaluation in a folder as it was typed.

    Raises:
        UserError: There is none.
    """
    root, _, name = folder.rstrip("/").rpartition("/")
    root = root.removesuffix("evaluations").rstrip("/") or "."
    evaluation = Evaluation(root, name)
    if evaluation.settings() is None or evaluation.read("evaluation.json") is None:
        raise UserError(
            f"there is no evaluation in {folder}: expected {evaluation.location}/evaluation.json",
            remedy="d3po evaluate CONFIG --adapter A=RUN:EPOCH makes one",
        )
    return evaluation


def configuration_of(evaluation: Evaluation) -> Configuration:
    """What an evaluation was made with, its storage root as the evaluation lies now."""
    values = results_of(evaluation)["configuration"]
    values["storage"]["root"] = evaluation.root
    return parse_configuration(values, f"{evaluation.location}/evaluation.json")
