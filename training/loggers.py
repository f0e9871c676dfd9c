"""The display: the progress of training in, lines for a person or a program out. Knows nothing of learning."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from training.trainer import Progress

REFRESH_SECONDS = 0.1


class Display:
    """A live line that is overwritten, and lines that are kept. Without a terminal only the kept lines are printed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )
        self._next_refresh = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show where training stands."""
        line = Text(progress.line, no_wrap=True, overflow="crop")
        if progress.kept:
            self._console.print(line, soft_wrap=True)
        now = time.monotonic()
        if self._live is not None and now >= self._next_refresh:
            self._live.update(line, refresh=True)
            self._next_refresh = now + REFRESH_SECONDS


class JsonDisplay:
    """One JSON object a kept line, for programs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def __call__(self, progress: Progress) -> None:
        """Print the figures."""
        if progress.kept:
            self._console.print(json.dumps(dict(progress.figures)), soft_wrap=True, markup=False)


class Scalars:
    """The figures of every kept line as TensorBoard scalars, where a folder is given."""

    def __init__(self, folder: Path | None) -> None:
        self._writer = None
        if folder is not None:
            from torch.utils.tensorboard import (
                SummaryWriter,
            )  # takes a second to import, and few ask for it

            self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, progress: Progress) -> None:
        """Write the figures at their environment step."""
        if self._writer is not None and progress.kept:
            for name, value in progress.figures.items():
                self._writer.add_scalar(name, value, int(progress.figures["steps"]))
