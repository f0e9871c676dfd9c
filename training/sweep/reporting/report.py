"""The report of a sweep: its table as Parquet, its tables in Markdown, its pictures."""

from collections.abc import Callable, Sequence

from training.sweep import results
from training.sweep.estimate import in_words
from training.sweep.plan import Sweep
from training.sweep.ranges import Search
from training.sweep.reporting import pictures
from training.sweep.reporting.statistics import (
    Estimate,
    difference,
    interquartile_mean,
    mean,
    verdict,
)
from training.sweep.results import Row
from training.sweep.search import SEARCHED, ranked
from training.sweep.session import size_of
from training.sweep.storage import Storage

PAGE = "README.md"
SHOWN_FAILURES = 20
SHOWN_BEST = 10


def write_report(storage: Storage, sweep: Sweep) -> list[str]:
    """Write the report of all trials that have ended. Returns the names of its files."""
    rows = results.read_rows(storage)
    if not rows:
        return []
    files = {
        results.TABLE: results.to_parquet(rows),
        **pictures.draw(sweep, rows),
    }
    files[PAGE] = markdown(sweep, rows, [name for name in files if name.endswith(".png")]).encode()
    for name, content in files.items():
        storage.write(name, content)
    return list(files)


def markdown(sweep: Sweep, rows: Sequence[Row], picture_files: Sequence[str] = ()) -> str:
    """Return the tables of a sweep in Markdown."""
    done = [row for row in rows if row["status"] == results.DONE]
    parts = [f"# {title(sweep)}", _summary(sweep, rows)]
    if sweep.search is not None:
        parts.append(search_table(sweep.search, rows))
    if compared := [row for row in done if row["variation"] != SEARCHED]:
        parts += [variations_table(compared), _explanation(), scenarios_table(compared)]
    if failed := [row for row in rows if row["status"] == results.FAILED]:
        parts.append(_failures(failed))
    parts += [f"![{name.removesuffix('.png')}]({name})" for name in picture_files]
    return "\n\n".join(parts) + "\n"


def title(sweep: Sweep) -> str:
    """Return what a sweep is, in words."""
    changes = ", ".join(f"{name} {value}" for name, value in sweep.changes.items())
    return f"{sweep.kind.capitalize()} of the recipe {sweep.recipe}" + (
        f" with {changes}" if changes else ""
    )


def results_table(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Return the table that says most of a sweep."""
    compared = [row for row in rows if row["variation"] != SEARCHED]
    if sweep.search is not None and not compared:
        return search_table(sweep.search, rows)
    return variations_table(compared)


def search_table(search: Search, rows: Sequence[Row]) -> str:
    """Return the best trials of a search, and what they were trained with."""
    names = list(search.hyperparameters)
    heads = ["trial", "validation score", "steps", *(f"`{name}`" for name in names)]
    lines = [
        f"The search ({search.sampler}, {search.scheduler}) chose by the validation score of seed"
        f" {search.training_seed}; among equals, by fewer steps. Its best trials:",
        "",
        f"| {' | '.join(heads)} |",
        "| --- " * len(heads) + "|",
    ]
    for row in ranked(rows)[:SHOWN_BEST]:
        score, steps = results.number(row, "validation_score"), results.number(row, "steps")
        values = (str(row[results.HYPERPARAMETER + name]) for name in names)
        lines.append(f"| {row['trial']} | {score:.4g} | {steps:,.0f} | {' | '.join(values)} |")
    if search.seeds:
        lines += [
            "",
            "The best of them and the recipe itself, each trained anew with seeds that the search"
            " never used:",
        ]
    return "\n".join(lines)


def variations_table(rows: Sequence[Row]) -> str:
    """Return the table of variations: what changes in a row, and what comes of it."""
    groups = by_variation(rows)
    first = next(iter(groups.values()))
    heads = (
        "variation",
        "trials",
        "passed",
        "mean rate",
        "mean rate, interquartile",
        "mean rate against the first row's",
        "least rate by the LQR's",
        "validation score",
        "steps",
        "seconds",
    )
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, group in groups.items():
        rates = column(group, "mean_rate")
        cells = [
            name or sweep_name(group),
            str(len(group)),
            f"{sum(bool(row['passed']) for row in group)} of {len(group)}",
            _cell(mean, rates),
            _cell(interquartile_mean, rates),
            "" if group is first else _against(rates, column(first, "mean_rate")),
            _cell(interquartile_mean, column(group, "least_ratio")),
            _cell(mean, column(group, "validation_score")),
            _cell(mean, column(group, "steps")),
            _cell(mean, column(group, "train_seconds")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def scenarios_table(rows: Sequence[Row]) -> str:
    """Return the success rates by scenario: a column a variation."""
    groups = by_variation(rows)
    names = [name.removeprefix(results.RATE) for name in rate_columns(rows)]
    heads = ["scenario", *(name or sweep_name(g) for name, g in groups.items())]
    lines = [f"| {' | '.join([*heads, 'LQR'])} |", "| --- " * (len(heads) + 1) + "|"]
    for name in names:
        cells = [
            _cell(interquartile_mean, column(group, results.rate_column(name)))
            for group in groups.values()
        ]
        lqr = _cell(_first, column(rows, results.lqr_column(name)))
        lines.append(f"| {' | '.join([name, *cells, lqr])} |")
    return "\n".join(lines)


def by_variation(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each variation, in the order in which they first come."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["variation"]), []).append(row)
    return groups


def column(rows: Sequence[Row], name: str) -> list[float]:
    """Return the numbers of a column, without those that are not there."""
    values = (results.number(row, name) for row in rows)
    return [value for value in values if value is not None]


def rate_columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns with success rates."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name.startswith(results.RATE)]


def sweep_name(rows: Sequence[Row]) -> str:
    """Return what stands for a variation that has no name: its recipe."""
    return f"`{rows[0]['recipe']}`"


def _summary(sweep: Sweep, rows: Sequence[Row]) -> str:
    done = [row for row in rows if row["status"] == results.DONE]
    passed = sum(bool(row["passed"]) for row in done)
    failed = sum(row["status"] == results.FAILED for row in rows)
    early = sum(row["status"] == results.ENDED_EARLY for row in rows)
    seconds = sum(column(done, "train_seconds")) + sum(column(done, "evaluation_seconds"))
    kinds = sorted({str(row["processor"]) for row in done})
    size = size_of(sweep)
    lines = [
        f"{len(rows):,} of {size:,} trials have ended: {passed:,} passed"
        f" their gate, {len(done) - passed:,} did not, {failed:,} failed"
        + (f", {early:,} were ended early by the search" if early else "")
        + f". Together they took {in_words(seconds)} of training and evaluation"
        + (f", on {'; '.join(kinds)}." if kinds else "."),
        f"Every row, with all hyperparameters, is in `{results.TABLE}`; the bundles of those that"
        " passed are in `bundles/`.",
    ]
    if len(kinds) > 1:
        lines.append("Weights differ between kinds of processors: repeat a trial on its own kind.")
    return "\n".join(lines)


def _explanation() -> str:
    return (
        "The mean rate is the mean of a policy's success rates in all scenarios; the least rate is"
        " its least success rate by the LQR's, over those that the gate `robust` asks for. In"
        " brackets: the 95 % interval, a percentile bootstrap over the trials; a single trial has"
        " none. Success rates by scenario, interquartile means:"
    )


def _failures(rows: Sequence[Row]) -> str:
    lines = [f"- trial {row['trial']}, seed {row['seed']}: {row['reason']}" for row in rows]
    more = len(lines) - SHOWN_FAILURES
    if more > 0:
        lines[SHOWN_FAILURES:] = [f"- and {more} more"]
    return "\n".join(["Failed:", *lines])


def _against(values: list[float], others: list[float]) -> str:
    if not values or not others:
        return ""
    estimate = difference(values, others)
    return f"{estimate}: {verdict(estimate)}"


def _cell(statistic: Callable[[Sequence[float]], Estimate], values: list[float]) -> str:
    return str(statistic(values)) if values else ""


def _first(values: Sequence[float]) -> Estimate:
    return Estimate(values[0], None, None)
