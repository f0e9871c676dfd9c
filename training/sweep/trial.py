"""One trial: trained from its last checkpoint on, exported through its gate, told as a row.

It is the one function that all kinds of sweeps run, wherever they run it. A trial that is killed
goes on from the checkpoint that it has handed to the sweep's storage, on this machine or another.
"""

import io
import json
import shutil
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from training import checkpoints as checkpoint_files
from training.checkpoints import ARRAYS, STATE, CheckpointError, Checkpoints, Identity, State
from training.evaluation.episodes import EPISODES
from training.export.candidates import from_run
from training.export.exporter import export
from training.network import choose_device
from training.recipes import AnyRecipe, BaselineRecipe
from training.sweep import results
from training.sweep.plan import Sweep, code_digest, now
from training.sweep.results import Row
from training.sweep.storage import Storage
from training.sweep.trials import Trial
from training.train import train
from training.trainer import Progress, Run

SWEEP = "sweep.json"
FIRST = f"{checkpoint_files.PREFIX}000001"


class TrialError(Exception):
    """Raised when a trial cannot be run on this machine."""


@dataclass(frozen=True)
class Work:
    """What a machine must know to run any trial of a sweep."""

    sweep: Sweep  # its trials left out
    storage: str
    device: str = "cpu"
    checkpoint_every: float = 30.0  # seconds
    any_processor: bool = False  # go on from a checkpoint of another kind of processor


OnProgress = Callable[[float, Progress], None]  # the share of the trial that is done
TrialFunction = Callable[[Work, Trial, int, OnProgress], Row]


def run_trial(work: Work, trial: Trial, attempt: int, on_progress: OnProgress) -> Row:
    """Run a trial, or what is left of it, and keep its row, and its bundle if it passed.

    A trial that has a row already is not run again. Raises `TrialError` where the machine's code or
    storage is not the sweep's, and whatever training and export raise.
    """
    storage = Storage(work.storage)
    _check_machine(work, storage)
    if (content := storage.read(results.path_of(trial))) is not None:
        row = results.parse(content)
        if row["status"] != results.FAILED:
            return row

    # Named for the trial: what an attempt that was killed has left here is removed by the next.
    scratch = Path(tempfile.gettempdir()) / f"upright-sweep-{work.sweep.id}" / trial.name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        return _run(work, trial, attempt, storage, scratch, on_progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # where other trials of the sweep run on this machine
            scratch.parent.rmdir()


def _run(
    work: Work,
    trial: Trial,
    attempt: int,
    storage: Storage,
    scratch: Path,
    on_progress: OnProgress,
) -> Row:
    recipe, started = work.sweep.recipe_of(trial), now()
    run, resumed_from = _train(work, trial, storage, scratch / "run", on_progress)

    trained = time.monotonic()
    written = export(
        from_run(run, commit=work.sweep.commit),
        scratch / "bundle",
        name=f"{recipe.name}-{trial.name}",
        model_version="1",
        created=now(),
        force=True,  # a policy that fails its gate is a result, too
        episodes=work.sweep.evaluation.episodes or EPISODES,
        scenario_episodes=work.sweep.evaluation.scenario_episodes,
    )
    row = {
        **results.row_of(work.sweep, trial, run, written),
        "resumed_from_seconds": resumed_from,
        "evaluation_seconds": time.monotonic() - trained,
        **_circumstances(attempt, started),
    }
    if written.manifest.gate.passed:
        storage.write_folder(f"bundles/{trial.name}", scratch / "bundle")
    storage.write(results.path_of(trial), results.to_json(row))
    storage.remove(results.checkpoint_path_of(trial))
    return row


def _check_machine(work: Work, storage: Storage) -> None:
    """Check that this machine has the sweep's storage and its code. Raises `TrialError`."""
    content = storage.read(SWEEP)
    if content is None or json.loads(content)["id"] != work.sweep.id:
        raise TrialError(
            f"{storage.place} on {socket.gethostname()} is not the sweep's storage; a cluster needs"
            " a --storage that all machines reach: a shared folder, or a URL"
        )
    if code_digest() != work.sweep.code:
        raise TrialError(
            f"the code on {socket.gethostname()} is not the sweep's; all machines need the same"
            " checkout or image"
        )


def _train(
    work: Work, trial: Trial, storage: Storage, folder: Path, on_progress: OnProgress
) -> tuple[Run, float]:
    """Train a trial from its last checkpoint on.

    Returns the run, and the seconds of training before this attempt.
    """
    recipe, device = work.sweep.recipe_of(trial), choose_device(work.device)
    identity = Identity.of(recipe, trial.seed, device.type)
    seconds_before = _fetch_checkpoint(work, trial, storage, folder, identity)

    def hand_on(checkpoint: Path) -> None:
        storage.write(results.checkpoint_path_of(trial), pack(checkpoint))

    def report(progress: Progress) -> None:
        on_progress(share_done(recipe, progress), progress)

    def lose(error: CheckpointError) -> None:
        raise error

    with Checkpoints(
        folder,
        identity,
        every=work.checkpoint_every,
        keep=1,
        any_processor=work.any_processor,
        on_written=hand_on,
    ) as checkpoints:
        run = train(
            recipe,
            trial.seed,
            device,
            checkpoints=checkpoints,
            on_progress=report,
            on_lost_checkpoint=lose,
        )
    return run, seconds_before


def _fetch_checkpoint(
    work: Work, trial: Trial, storage: Storage, folder: Path, identity: Identity
) -> float:
    """Put a trial's last checkpoint where training looks for it.

    One of another kind of processor, or of other releases, is left out: the trial then begins anew,
    since its weights would be those of neither. Returns the seconds that it had trained.
    """
    content = storage.read(results.checkpoint_path_of(trial))
    if content is None:
        return 0.0
    state = unpack(content, folder / FIRST)
    ignored = {"processor"} if work.any_processor else set()
    if state.identity.model_dump(exclude=ignored) != identity.model_dump(exclude=ignored):
        shutil.rmtree(folder)
        return 0.0
    return state.seconds


def pack(checkpoint: Path) -> bytes:
    """Return a checkpoint's folder as one archive, which a storage can replace in one step."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in (STATE, ARRAYS):
            archive.write(checkpoint / name, name)
    return content.getvalue()


def unpack(content: bytes, checkpoint: Path) -> State:
    """Write the folder of a checkpoint from its archive, and return its state.

    Raises `CheckpointError` where it is none.
    """
    checkpoint.mkdir(parents=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in (STATE, ARRAYS):
                (checkpoint / name).write_bytes(archive.read(name))
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{checkpoint.name}: not an archive of a checkpoint") from error
    return checkpoint_files.read(checkpoint.parent)[0]


def share_done(recipe: AnyRecipe, progress: Progress) -> float:
    """Return the share of a training that is done, if it trains to its limit."""
    if isinstance(recipe, BaselineRecipe):
        return progress.metrics["episode"] / recipe.episodes
    return progress.metrics["steps"] / (recipe.steps * recipe.agents)


def _circumstances(attempt: int, started: datetime) -> Row:
    return {
        "attempts": attempt,
        "started": started.isoformat(),
        "ended": now().isoformat(),
        "machine": socket.gethostname(),
    }
