"""Every saved step's adapter, kept as an artifact that stock PEFT loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from skippy.training.plan import RunSink
from skippy.training.resume import FINISHED_FILE

ADAPTERS_DIRECTORY = "adapters"


class CheckpointCallback(TrainerCallback):
    """Writes and logs `adapters/step_NNNNNN` when a checkpoint is finished."""

    def __init__(self, run: RunSink, output_dir: Path, save_adapter: Callable[[Path], None]) -> None:
        self.run = run
        self.folder = output_dir / ADAPTERS_DIRECTORY
        self.save_adapter = save_adapter

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep this step's adapter."""
        if state.is_world_process_zero:
            directory = self.folder / f"step_{state.global_step:06d}"
            self.save_adapter(directory)
            self.run.log_folder(directory, f"{ADAPTERS_DIRECTORY}/{directory.name}")

    def adapters(self) -> dict[int, Path]:
        """Adapter directories by step, those of an earlier part of a resumed run included."""
        found = sorted(self.folder.glob("step_*"))
        return {int(path.name.removeprefix("step_")): path for path in found}


class FinishCallback(TrainerCallback):
    """Marks a checkpoint as one to go on from, when its adapter, numbers and tables are kept: add it last.

    A torn or half-logged checkpoint is never resumed from, so nothing of a step before it can be missing.
    """

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Touch the mark."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            (folder / FINISHED_FILE).touch()
