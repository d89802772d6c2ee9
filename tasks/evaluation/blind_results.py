"""What people said of a blind comparison: wins, losses and ties of each candidate, with intervals.

Prompts are what is drawn again: of one image a prompt the win rate has Wilson's interval, of several it is bootstrapped
over the prompts, as images of a prompt go together.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from d3po_core.noise import generator
from d3po_core.preferences import latest_judgements
from d3po_core.records import Judgement
from d3po_core.statistics import Interval, bootstrap_mean, wilson_share
from storage.documents import encode
from storage.evaluation import Evaluation
from storage.layout import blind_key
from tasks.errors import UserError
from tasks.evaluation.blind import Blind, blind_of
from tasks.evaluation.estimates import ends
from tasks.evaluation.evaluation_page import BLIND_RESULTS_FORMAT, write_page
from tasks.label_studio.parse import parse_export
from tasks.label_studio.reading import read_export
from tasks.labels.connection import connect
from tasks.log import logger
from tasks.reports.plots import bars

__all__ = ["count", "pull_blind"]

WILSON = "Wilson"
BOOTSTRAP = "bootstrapped over the prompts"


def pull_blind(evaluation: Evaluation, number: int) -> dict[str, Any]:
    """Read the answers there are, and write ``results.json``, ``win-rates.svg``, the raw export and the page again.

    Raises:
        UserError: Nothing was shown, or nobody has judged anything yet.
        LabelStudioError: Label Studio does not give a whole export.
    """
    blind = blind_of(evaluation, number)
    if blind.project is None:
        raise UserError(
            f"blind comparison {number} of {evaluation.location} is not in Label Studio yet",
            remedy=f"d3po ab start {evaluation.location} {' '.join(blind.candidates)}",
        )
    client = connect()
    client.check_screen(blind.project, blind.plan.screen)
    with tempfile.TemporaryDirectory(prefix="d3po-blind-") as folder:
        export = Path(folder, "export.json.gz")
        client.export(blind.project, export)
        parsed = parse_export(read_export(export), blind.plan, blind.ls_tasks)
        evaluation.write(blind_key(number, export.name), export.read_bytes())
    for item in parsed.set_aside:
        logger().warning("annotation %s was set aside: %s", item.id, item.reason)
    found = count(blind, parsed.judgements)
    if not found["judged"]:
        raise UserError(
            f"nobody has judged any of the {found['comparisons']} comparisons yet", remedy=f"judge at {blind.url}"
        )
    found |= {"number": number, "set_aside": len(parsed.set_aside), "skips": len(parsed.skips), "url": blind.url}
    evaluation.write(blind_key(number, "results.json"), encode(found, BLIND_RESULTS_FORMAT))
    rates = {name: ends(one["win_rate"]) for name, one in found["candidates"].items()}
    evaluation.write(blind_key(number, "win-rates.svg"), bars(rates, "win rate", "of all judged comparisons"))
    write_page(evaluation)
    return found


def count(blind: Blind, judgements: Iterable[Judgement]) -> dict[str, Any]:
    """Wins, losses and ties by comparison; of one person's several judgements of a comparison the latest counts.

    A comparison is won by more than half of its judgements; else it is a tie, and "both bad" where more than half say so.
    Beside the win rate stands the share of favourable judgements: D3PO's Figure 7 has both.
    """
    counted, _, _ = latest_judgements(judgements)
    votes: defaultdict[str, list[str]] = defaultdict(list)
    left = Counter(_side(judgement) for judgement in counted)
    for judgement in counted:
        votes[judgement.group_id].append(_verdict(blind, judgement))
    won_by = {id: _majority(said) for id, said in votes.items()}
    outcomes = Counter(won_by.values())
    judged, first, second = len(votes), *blind.candidates
    return {
        "between": [first, second],
        "candidates": {
            own: {
                "wins": outcomes[own],
                "losses": outcomes[other],
                "ties": outcomes["tie"],
                "both_bad": outcomes["both_bad"],
                "win_rate": _win_rate(blind, own, won_by),
                "favoured": _favoured(blind, own, votes),
            }
            for own, other in ((first, second), (second, first))
        },
        "intervals": {
            "win_rate": WILSON if _one_a_prompt(blind, votes) else BOOTSTRAP,
            "favoured": BOOTSTRAP,
        },
        "comparisons": len(blind.plan.orders),
        "judged": judged,
        "complete": all(len(votes[id]) >= blind.people for id in blind.plan.orders),
        "judgements": len(counted),
        "people": len({judgement.judge for judgement in counted}),
        "chose_left": _share(left["left"], left["left"] + left["right"]),
    }


def _win_rate(blind: Blind, candidate: str, won_by: Mapping[str, str]) -> dict[str, float | None]:
    """The share of comparisons that a candidate won."""
    if _one_a_prompt(blind, won_by):
        return _share(sum(winner == candidate for winner in won_by.values()), len(won_by))
    return _over_prompts(blind, {id: float(winner == candidate) for id, winner in won_by.items()})


def _one_a_prompt(blind: Blind, judged: Collection[str]) -> bool:
    """Whether each comparison that was judged so far has a prompt of its own, so that they are independent."""
    return len({blind.prompts[id] for id in judged}) == len(judged)


def _favoured(blind: Blind, candidate: str, votes: Mapping[str, list[str]]) -> dict[str, float | None]:
    """The mean share of a comparison's judgements that went to a candidate; judgements of one comparison go together."""
    if not votes:
        return _share(0, 0)
    return _over_prompts(blind, {id: said.count(candidate) / len(said) for id, said in votes.items()})


def _over_prompts(blind: Blind, values: Mapping[str, float]) -> dict[str, float | None]:
    """The mean over prompts, each the mean of its comparisons, bootstrapped."""
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for id, value in sorted(values.items()):
        by_prompt[blind.prompts[id]].append(value)
    shares = [mean(own) for own in by_prompt.values()]
    draws = generator("bootstrap", run_seed=0, group=f"{blind.plan.run_id}/{blind.number}")
    return _interval(bootstrap_mean(shares, draws))


def _verdict(blind: Blind, judgement: Judgement) -> str:
    """Whose image won; ``tie`` or ``both_bad``."""
    if judgement.verdict != "prefer":
        return judgement.verdict
    better = max(zip(judgement.levels, judgement.trajectory_ids, strict=True))[1]
    return blind.owners[better]


def _side(judgement: Judgement) -> str:
    if judgement.verdict != "prefer":
        return "neither"
    return "left" if judgement.levels[0] > judgement.levels[1] else "right"


def _majority(said: list[str]) -> str:
    verdict, votes = Counter(said).most_common(1)[0]
    return verdict if 2 * votes > len(said) else "tie"


def _share(part: int, whole: int) -> dict[str, float | None]:
    if whole == 0:
        return {"value": 0.0, "low": None, "high": None}
    return _interval(wilson_share(part, whole))


def _interval(found: Interval) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}
