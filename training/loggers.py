"""Where the progress of training is shown: a terminal, lines of JSON, TensorBoard."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from training.trainer import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

REFRESH_SECONDS = 0.1  # of the live line


class Logger(Protocol):
    """Shows progress between `__enter__` and `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def log(self, progress: Progress) -> None:
        """Show where training stands."""
        ...


class ConsoleLogger:
    """A live line that is overwritten, and logged lines, which stay.

    Without a terminal only the logged lines are printed.
    """

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

    def log(self, progress: Progress) -> None:
        """Show where training stands."""
        line = Text(progress.line, no_wrap=True, overflow="crop")
        if progress.is_logged:
            self._console.print(line, soft_wrap=True)

        now = time.monotonic()
        if self._live is not None and now >= self._next_refresh:
            self._live.update(line, refresh=True)
            self._next_refresh = now + REFRESH_SECONDS


class JsonLogger:
    """One JSON object a logged line, for programs."""

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

    def log(self, progress: Progress) -> None:
        """Print the metrics."""
        if progress.is_logged:
            self._console.print(json.dumps(dict(progress.metrics)), soft_wrap=True, markup=False)


class TensorBoardLogger:
    """The metrics of every logged line as TensorBoard scalars.

    Where they cannot be written, as on a full disk, `warn` is called once, and training goes on.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._writer: SummaryWriter | None = None
        self._has_failed = False
        self._excepthook = threading.excepthook

    def __enter__(self) -> Self:
        threading.excepthook = self._print_no_error_of_the_disk
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as failure:
            self._fail(failure)
        finally:
            threading.excepthook = self._excepthook

    def log(self, progress: Progress) -> None:
        """Write the metrics at their environment step."""
        if not progress.is_logged or self._has_failed:
            return

        steps = int(progress.metrics["steps"])
        try:
            if self._writer is None:
                self._writer = self._open_writer(steps)
            for name, value in progress.metrics.items():
                self._writer.add_scalar(name, value, steps)
            self._writer.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._has_failed:
            self._warn(
                f"{self._folder}: no scalars are written any more ({error.strerror});"
                " training goes on"
            )
        self._has_failed = True

    def _print_no_error_of_the_disk(self, failure: threading.ExceptHookArgs) -> None:
        """Let TensorBoard's thread end in silence: what it failed of is raised at the next call."""
        if not isinstance(failure.exc_value, OSError):
            self._excepthook(failure)

    def _open_writer(self, steps: int) -> "SummaryWriter":
        # It takes a second to import, and few ask for it.
        from torch.utils.tensorboard import SummaryWriter

        # A run that is resumed, or begun anew, repeats what the one before it wrote last:
        # TensorBoard drops that.
        return SummaryWriter(str(self._folder), purge_step=steps)
