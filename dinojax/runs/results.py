"""What came of a sweep: means and spreads over seeds, the best setting, comparisons, a table."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinojax.evaluation.statistics import CONFIDENCE, compare, spread
from dinojax.files import write_atomically
from dinojax.messages import count, visible
from dinojax.runs.asked import shown
from dinojax.runs.sweep import (
    DIVERGED,
    FAILED,
    FINISHED,
    RESULTS_FILE,
    TABLE_FILE,
    Outcome,
    Replica,
    Sweep,
    plan,
    setting_name,
)

UNIT = "nats per character"


def summarize(sweep: Sweep, outcomes: Mapping[Path, Outcome]) -> dict[str, Any]:
    """The results of a sweep as JSON-like data, from how its replicas ended; see `Outcome`.

    All losses are exact ones over the validation part, in nats per character, of each replica's
    best checkpoint. A setting is compared with the baseline on the seeds that finished for both.
    The best setting has the lowest mean of those with the most finished seeds, so that no setting
    wins by the few replicas of it that did not diverge. What is not known is NaN or None.
    """
    settings, by_setting = [], dict[str, list[Replica]]()
    for replica in plan(sweep):
        by_setting.setdefault(replica.setting, []).append(replica)
    losses = {name: _losses(replicas, outcomes) for name, replicas in by_setting.items()}
    baseline = setting_name(sweep.preset, sweep.baseline)
    for name, replicas in by_setting.items():
        own, others = losses[name], losses[baseline]
        ends = [outcomes[each.folder].status for each in replicas if each.folder in outcomes]
        found = spread(list(own.values()))
        row: dict[str, Any] = {
            "setting": name,
            "values": dict(replicas[0].values),
            **{status: ends.count(status) for status in (FINISHED, DIVERGED, FAILED)},
            "mean": found.mean,
            "standard_deviation": found.standard_deviation,
            "standard_error": found.standard_error,
            "against_baseline": None,
        }
        if name != baseline:
            pairs = sorted(own.keys() & others.keys())
            compared = compare([own[seed] for seed in pairs], [others[seed] for seed in pairs])
            row["against_baseline"] = compared._asdict()
        settings.append(row)
    most = max(row[FINISHED] for row in settings)
    rivals = [row for row in settings if most and row[FINISHED] == most]
    best = min(rivals, key=lambda row: row["mean"])["setting"] if rivals else None
    ended = [
        {"folder": each.folder.as_posix(), **outcomes[each.folder]._asdict()}
        for replicas in by_setting.values()
        for each in replicas
        if each.folder in outcomes
    ]
    return {
        "unit": UNIT,
        "confidence": CONFIDENCE,
        "seeds": sweep.seeds,
        "baseline": baseline,
        "best": best,
        "settings": settings,
        "replicas": ended,
    }


def table(sweep: Sweep, results: Mapping[str, Any]) -> str:
    """The results as lines of text, a row for each setting, and what the columns mean below."""
    names = list(sweep.values)
    heads = [*(name.replace("_", " ") for name in names), "seeds", "loss", "sd", "se"]
    is_compared = len(results["settings"]) > 1
    if is_compared:
        heads += ["against baseline", "better"]
    rows = [heads]
    for row in results["settings"]:
        cells = [shown(row["values"][name]) for name in names]
        whole = row[FINISHED] == results["seeds"]
        cells.append(f"{row[FINISHED]}" if whole else f"{row[FINISHED]}/{results['seeds']}")
        figures = ("mean", "standard_deviation", "standard_error")
        cells += [_figure(row[name]) for name in figures]
        if is_compared:
            compared = row["against_baseline"]
            if compared is None:
                cells += ["baseline", ""]
            elif compared["num_pairs"] == 0:
                cells += ["-", "-"]
            else:
                margin = compared["margin"]
                around = "" if math.isnan(margin) else f" ± {_figure(margin)}"
                sign = "+" if compared["difference"] >= 0 else ""
                cells.append(f"{sign}{_figure(compared['difference'])}{around}")
                probability = compared["probability_of_improvement"]
                # Of one pair it is 0, 0.5 or 1, which says nothing about other replicas.
                cells.append(f"{probability:.2f}" if compared["num_pairs"] > 1 else "-")
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *_notes(results, is_compared)]) + "\n"


def write_results(folder: Path, sweep: Sweep, outcomes: Mapping[Path, Outcome]) -> str:
    """Write `results.json` and `results.txt`, whose text is returned."""
    results = summarize(sweep, outcomes)
    text = table(sweep, results)
    content = json.dumps(_finite(results), indent=2, allow_nan=False)
    write_atomically(folder / TABLE_FILE, text.encode())
    write_atomically(folder / RESULTS_FILE, f"{content}\n".encode())
    return text


def _losses(replicas: Sequence[Replica], outcomes: Mapping[Path, Outcome]) -> dict[int, float]:
    """The loss of each seed that finished."""
    ended = {each.seed: outcomes[each.folder] for each in replicas if each.folder in outcomes}
    return {
        seed: outcome.validation_loss
        for seed, outcome in ended.items()
        if outcome.status == FINISHED and outcome.validation_loss is not None
    }


def _notes(results: Mapping[str, Any], is_compared: bool) -> list[str]:
    notes = ["loss: exact, in nats a character of the validation part, at the best checkpoint;"]
    if results["seeds"] > 1:
        notes += ["mean, standard deviation and standard error of the mean over seeds"]
    else:
        notes += ["of one seed, so nothing is known about the spread over seeds"]
    if is_compared:
        notes.append("against baseline: loss - baseline, mean over the seeds that both finished")
        if results["seeds"] > 1:
            notes[-1] += ","
            notes.append(f"± half the {CONFIDENCE:.0%} confidence interval by Student's t")
            notes.append("better: probability that a replica is better than one of the baseline")
    if results["best"] is not None and is_compared:
        notes.append(f"best: {results['best']}")
    for status in DIVERGED, FAILED:
        ended = [each for each in results["replicas"] if each["status"] == status]
        if ended:
            notes.append(f"{status}: {count(len(ended), 'replica')}")
            notes += [f"  {each['folder']}: {visible(each['message'])}" for each in ended]
    return notes


def _figure(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1_000 else f"{value:.4g}"


def _finite(value: Any) -> Any:
    """JSON-like data with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
