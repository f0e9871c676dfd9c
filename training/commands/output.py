"""What the commands print: on standard output in words or JSON, and warnings on standard error."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.manifest import Evaluation, Gate, Manifest, RobustnessEvaluation
from models.text import printable
from training.commands.standard_output import LOST, StandardOutput
from training.evaluation.intervals import wilson, with_interval
from training.export.model_card import worth_of_the_tutorial
from training.loggers import ConsoleLogger, JsonLogger, Logger
from training.types import OnStage


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
    def stages(self) -> Iterator[OnStage]:
        """Give a function that shows what is being done, and the share of it that is done.

        A terminal shows a bar, which goes on turning while there is nothing to tell. Elsewhere each
        stage is one line, or one JSON object, as it begins.
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
                    if stage != current:
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
        # Without lines between the columns it fits into 80 characters.
        table = Table(box=None, pad_edge=False)
        for head in ("scenario", "episodes", "policy [95 %]", "LQR [95 %]"):
            table.add_column(head, no_wrap=True, justify="right" if head == "episodes" else "left")
        for scenario in robustness.scenarios:
            table.add_row(
                scenario.name,
                f"{scenario.episodes:,}",
                with_interval(scenario.success_rate, scenario.episodes),
                with_interval(scenario.lqr_success_rate, scenario.episodes),
            )
        self._console.print(table)
        for word, names in zip(("better", "worse"), _beside_the_lqr(robustness), strict=True):
            self.print_line(f"{word} than the LQR: {', '.join(names) or 'nowhere'}")

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
