"""An evaluation as a page that people read: differences with their intervals, win rates, images, facts."""

from collections.abc import Iterator, Mapping
from typing import Any

from storage.documents import decode
from storage.evaluation import Evaluation
from storage.layout import blind_key
from tasks.evaluation.estimates import ends, said, said_share
from tasks.evaluation.names import BASE
from tasks.reports import page
from tasks.reports.plots import bars, differences

__all__ = ["BLIND_RESULTS_FORMAT", "RESULTS_FORMAT", "blind_results", "results_of", "write_page"]

RESULTS_FORMAT = "d3po-evaluation-results/1"
BLIND_RESULTS_FORMAT = "d3po-blind-results/1"


def results_of(evaluation: Evaluation) -> dict[str, Any]:
    """What ``evaluation.json`` says."""
    return _read(evaluation, "evaluation.json", RESULTS_FORMAT) or {}


def blind_results(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The results of each blind comparison that was looked at, in order."""
    number = 0
    while evaluation.blind_plan(number) is not None:
        if found := _read(evaluation, blind_key(number, "results.json"), BLIND_RESULTS_FORMAT):
            yield found
        number += 1


def write_page(evaluation: Evaluation) -> None:
    """``evaluation.html`` from what is in the folder, blind comparisons included."""
    body = results_of(evaluation)
    settings = body["settings"]
    parts = [*_blind_sections(evaluation), *_measure_sections(body)]
    for eta in body["etas"]:
        sheet = evaluation.read(f"sheets/eta-{eta:g}.png")
        if sheet is not None:
            caption = "A column is one prompt and one noise; a row is one candidate."
            parts.append(
                page.section(f"Images, η = {eta:g}", page.figure(sheet, f"images at η = {eta:g}", caption, wide=True))
            )
    facts = [
        *((f"candidate {one['name']}", f"{one['source']} ({one['digest'][:16]}…)") for one in body["candidates"]),
        *((name.replace("_", " "), str(value)) for name, value in settings.items() if name != "prompts"),
        ("prompts", str(len(settings["prompts"]))),
        ("every single value", "evaluation.parquet, beside this page"),
    ]
    parts.append(page.section("Facts", page.table(("", ""), facts)))
    lead = (
        f"{', '.join(one['name'] for one in body['candidates'])}: {len(settings['prompts'])} held-out prompts × "
        f"{settings['images_per_prompt']} images each, from the same noise for all."
    )
    evaluation.write("evaluation.html", page.page(f"Evaluation {evaluation.name}", lead, parts))


def _measure_sections(body: Mapping[str, Any]) -> Iterator[str]:
    by_measure: dict[str, list[dict[str, Any]]] = {}
    for result in body["results"]:
        by_measure.setdefault(result["measure"], []).append(result)
    for measure, results in by_measure.items():
        name = measure.replace("_", " ")
        compared = {
            f"{result['candidate']}, η = {result['eta']:g}": ends(result["difference"])
            for result in results
            if result["difference"] is not None
        }
        caption = f"{name}: difference to the {BASE} model with its 95 % interval; on the line there is none."
        plot = (
            page.figure(differences(compared, name, f"difference to {BASE}"), f"{name}, differences", caption)
            if compared
            else ""
        )
        header = ["candidate", "η", "values", "mean [95 %]"]
        rows = [[one["candidate"], f"{one['eta']:g}", str(one["values"]), said(one["mean"])] for one in results]
        note = (
            f"{results[0]['meaning'][:1].upper()}{results[0]['meaning'][1:]}. Intervals are bootstrapped over "
            f"{results[0]['prompts']} prompts"
        )
        if compared:
            header.append(f"difference to {BASE} [95 %]")
            rows = [[*row, said(one["difference"])] for row, one in zip(rows, results, strict=True)]
            note += "; differences are paired, of the same prompt and noise"
        yield page.section(name, plot, page.table(header, rows, range(1, len(header))), note=f"{note}.")


def _blind_sections(evaluation: Evaluation) -> Iterator[str]:
    for found in blind_results(evaluation):
        pair = " against ".join(found["between"])
        candidates = {name: found["candidates"][name] for name in found["between"]}
        # Results of earlier versions do not say which intervals they are; `d3po ab results` writes them again.
        kinds = {what: f", {kind}" for what, kind in found.get("intervals", {}).items()}
        shares = {name: ends(one["win_rate"]) for name, one in candidates.items()}
        header = (
            "candidate",
            "wins",
            "losses",
            "ties",
            "both bad",
            f"win rate [95 %{kinds.get('win_rate', '')}]",
            f"judgements for it [95 %{kinds.get('favoured', '')}]",
        )
        rows = [
            (
                name,
                *(str(one[kind]) for kind in ("wins", "losses", "ties", "both_bad")),
                said_share(one["win_rate"]),
                said_share(one["favoured"]) if "favoured" in one else "–",
            )
            for name, one in candidates.items()
        ]
        note = (
            f"{found['judged']} of {found['comparisons']} comparisons, {found['judgements']} judgements by "
            f"{found['people']} people who could not tell which is which. A win is one of more than half of a "
            f"comparison's judgements; a rate is wins over all judged comparisons. Judgements for "
            "a candidate are a share of each comparison's."
            + ("" if found["complete"] else " Not everything is judged yet.")
        )
        caption = f"{pair}: share of comparisons won, with 95 % intervals{kinds.get('win_rate', '')}."
        yield page.section(
            f"Blind comparison: {pair}",
            page.figure(bars(shares, "win rate", "of all judged comparisons"), "win rates", caption),
            page.table(header, rows, (1, 2, 3, 4, 5, 6)),
            note=note,
        )


def _read(evaluation: Evaluation, key: str, document_format: str) -> dict[str, Any] | None:
    data = evaluation.read(key)
    return data and decode(data, document_format, f"{evaluation.location}/{key}", "d3po evaluate writes it again")
