"""What the commands print: on standard output in words or JSON, and warnings on standard error."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.manifest import Evaluation, Gate, Manifest, RobustnessEvaluation, ScenarioResult
from models.text import printable
from training.commands.standard_output import LOST, StandardOutput
from training.evaluation.gate import required_rate
from training.evaluation.intervals import wilson, with_interval
from training.export.model_card import worth_of_the_tutorial
from training.loggers import ConsoleLogger, JsonLogger, Logger
from training.recipes import AnyRecipe, BaselineRecipe, PopulationRecipe
from training.trainer import Run
from training.types import OnStage

LOST_RATE = 0.05  # below it a policy survives as good as nothing
POPULATION_LEGEND = (
    "each line: steps of each agent; best, median, selected: scores in short checks of that agent,"
    " 1 is perfect; finite: agents whose weights are numbers; ε: share of random actions; steps/s:"
    " of all agents together"
)
BASELINE_LEGEND = (
    "each line: episodes; score: steps that the last one lasted; ε: share of random actions"
)
JUDGED = {  # by the name of a gate
    "tutorial": "The gate tutorial judges by none of these, but by the scores of the last episodes"
    " of training.",
    "nominal": "The gate nominal judges by the greedy episodes above the table alone.",
    "robust": "The gate robust judges by the greedy episodes above the table, and in each row by"
    " the rate in its last column.",
}


class Output:
    """Standard output, in words for people or as JSON for programs, and warnings."""

    def __init__(self, *, json_output: bool) -> None:
        self.json_output = json_output
        self._errors = Console(stderr=True, soft_wrap=True, highlight=False)
        self._stream = StandardOutput(self.warn)
        self._console = Console(highlight=False, file=cast(IO[str], self._stream))

    def exit_code(self, code: int = 0) -> int:
        """Return a command's exit code: in place of 0, `LOST` where its results reached nobody."""
        return LOST if self._stream.is_lost and not code else code

    def warn(self, text: str) -> None:
        """Print a line on standard error; where it takes none, no work is lost for that."""
        with suppress(OSError):
            self._errors.print(printable(text), markup=False)

    def logger(self) -> Logger:
        """Return what shows the progress of training."""
        return JsonLogger(self._console) if self.json_output else ConsoleLogger(self._console)

    @contextmanager
    def stages(self, *, is_told: bool = True) -> Iterator[OnStage]:
        """Give a function that shows what is being done, and the share of it that is done.

        A terminal shows a bar, which goes on turning while there is nothing to tell. Elsewhere each
        stage is one line, or one JSON object, as it begins, if it `is_told`.
        """
        current = ""
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=self.json_output or not self._console.is_terminal,
        ) as bars:
            bar = bars.add_task("", total=1.0)

            def on_stage(stage: str, done: float) -> None:
                nonlocal current
                if bars.disable:
                    if is_told and stage != current:
                        self.print_facts(stage=stage)
                elif stage != current:
                    bars.reset(bar, description=stage)
                bars.update(bar, completed=done)
                current = stage

            yield on_stage

    def print_line(self, line: str) -> None:
        """Print a line that a terminal may wrap, but nothing else changes."""
        self._console.print(printable(line), soft_wrap=True, markup=False)

    def print_facts(self, **facts: object) -> None:
        """Print names and values: as words, or as one JSON object."""
        if self.json_output:
            self.print_line(json.dumps(facts))
        else:
            self.print_line(", ".join(f"{name} {value}" for name, value in facts.items()))

    def print_legend(self, recipe: AnyRecipe) -> None:
        """Say what stands in the lines of training."""
        is_baseline = isinstance(recipe, BaselineRecipe)
        self.print_line(BASELINE_LEGEND if is_baseline else POPULATION_LEGEND)

    def print_run(self, run: Run, folder: Path) -> None:
        """Print how training ended: for people in whole seconds, and in steps as its lines are."""
        if self.json_output:
            seconds = round(run.seconds, 1)
            self.print_facts(stopped=run.stopped, steps=run.steps, seconds=seconds, run=str(folder))
            return

        steps = f"{run.steps:,} steps"
        if isinstance(run.recipe, PopulationRecipe):
            agents = run.recipe.agents
            steps = f"{run.steps // agents:,} steps of each of {agents} agents"
        self.print_line(
            f"stopped {run.stopped}, after {steps} and {run.seconds:.0f} s; run {folder}"
        )

    def print_worth(self, manifest: Manifest) -> None:
        """Say of a policy whose gate promises little that it does, before its figures."""
        if manifest.gate.name == "tutorial" and manifest.gate.passed:
            self.print_line(f"{worth_of_the_tutorial(manifest)} What it is worth:")

    def print_evaluation(
        self, evaluation: Evaluation, robustness: RobustnessEvaluation, gate: Gate
    ) -> None:
        """Print what was measured of a policy, for people."""
        self.print_line(
            f"{evaluation.episodes:,} greedy episodes of policy.onnx: mean {evaluation.mean:.2f}"
            f" steps, worst {evaluation.minimum}, {evaluation.success_rate:.1%} to the time limit"
        )
        columns = ("scenario", "policy [95 %]", "LQR [95 %]", "gate")
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
        for scenario in robustness.scenarios:
            table.add_row(
                scenario.name,
                with_interval(scenario.success_rate, scenario.episodes),
                with_interval(scenario.lqr_success_rate, scenario.episodes),
                _judgement(gate, scenario),
            )
        self._console.print(table)
        self.print_line(_table_legend(robustness))
        for word, names in zip(("better", "worse"), _beside_the_lqr(robustness), strict=True):
            self.print_line(f"{word} than the LQR: {'; '.join(names) or 'nowhere'}")
        self.print_line(JUDGED[gate.name])
        lost = _lost_scenarios(robustness) if gate.name != "robust" else []
        if lost:
            self.print_line(
                f"The policy is lost in nearly every episode of: {'; '.join(lost)}."
                f" The gate {gate.name} does not ask for them."
            )
        result = "passed" if gate.passed else "failed: " + "; ".join(gate.failures)
        self.print_line(f"gate {gate.name}: {result}")


def _beside_the_lqr(robustness: RobustnessEvaluation) -> tuple[list[str], list[str]]:
    """Return the scenarios where a policy is better than the LQR, and those where it is worse.

    In the others the 95 % intervals overlap.
    """
    better, worse = [], []
    for scenario in robustness.scenarios:
        low, high = wilson(scenario.success_rate, scenario.episodes)
        lqr_low, lqr_high = wilson(scenario.lqr_success_rate, scenario.episodes)
        if low > lqr_high:
            better.append(scenario.name)
        elif high < lqr_low:
            worse.append(scenario.name)
    return better, worse


def _judgement(gate: Gate, scenario: ScenarioResult) -> str:
    """Return what a gate asks for in a scenario; nothing where it asks for nothing."""
    if gate.name != "robust" or not scenario.is_required:
        return ""
    least = required_rate(scenario)
    sign = "≥" if scenario.success_rate >= least else "<"
    return f"{sign} {least:.3f}"


def _table_legend(robustness: RobustnessEvaluation) -> str:
    counts = Counter(scenario.episodes for scenario in robustness.scenarios)
    [(usual, _)] = counts.most_common(1)
    others = [
        f"{scenario.episodes:,} of {scenario.name}"
        for scenario in robustness.scenarios
        if scenario.episodes != usual
    ]
    numbers = ", ".join([f"{usual:,} episodes of each scenario", *others])
    return f"Success rates with 95 % intervals, of {numbers}. An episode succeeds if nothing falls."


def _lost_scenarios(robustness: RobustnessEvaluation) -> list[str]:
    """Return the scenarios in which the policy hardly ever succeeds, though the LQR does."""
    return [
        scenario.name
        for scenario in robustness.scenarios
        if scenario.success_rate < LOST_RATE <= scenario.lqr_success_rate
    ]
