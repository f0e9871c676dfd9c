"""What the commands print: on standard output in words or JSON, and warnings on standard error."""

import json
from contextlib import suppress
from typing import IO, cast

from rich.console import Console
from rich.table import Table

from models.manifest import Evaluation, Gate, Manifest, RobustnessEvaluation
from models.text import printable
from training.commands.standard_output import LOST, StandardOutput
from training.evaluation.intervals import with_interval
from training.export.model_card import worth_of_the_tutorial
from training.loggers import ConsoleLogger, JsonLogger, Logger


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
        table = Table("scenario", "episodes", "steps", "policy [95 %]", "LQR [95 %]")
        for scenario in robustness.scenarios:
            table.add_row(
                scenario.name,
                f"{scenario.episodes}",
                f"{scenario.steps:,}",
                with_interval(scenario.success_rate, scenario.episodes),
                with_interval(scenario.lqr_success_rate, scenario.episodes),
            )
        self._console.print(table)
        result = "passed" if gate.passed else "failed: " + "; ".join(gate.failures)
        self.print_line(f"gate {gate.name}: {result}")
