"""The display: the progress of training in, lines for a person out. Knows nothing of learning."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from training.recipe import Recipe
from training.train import SCORE_WINDOW, Progress

KEPT_EVERY = 100  # episodes
REFRESH_SECONDS = 0.1


class Display:
    """A live line that is overwritten, and a kept line each 100 episodes. Without a terminal only the kept lines are printed."""

    def __init__(self, console: Console, recipe: Recipe) -> None:
        self._console = console
        self._episodes = recipe.episodes
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next_refresh = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show where training stands."""
        if progress.episode.number % KEPT_EVERY == 0:
            self._console.print(self._line(progress))
        now = time.monotonic()
        if self._live is not None and now >= self._next_refresh:
            self._live.update(self._line(progress), refresh=True)
            self._next_refresh = now + REFRESH_SECONDS

    def _line(self, progress: Progress) -> Text:
        episode = progress.episode
        speed = progress.total_steps / progress.seconds if progress.seconds > 0 else 0.0
        return Text(
            f"episode {episode.number:>5}/{self._episodes}  score {episode.score:>5.0f}"
            f"  mean of {SCORE_WINDOW} {progress.mean_score:>6.2f}  ε {episode.epsilon:.4f}  {speed:>7,.0f} steps/s",
            no_wrap=True,
            overflow="crop",
        )
