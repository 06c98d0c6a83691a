"""What makes a mask or biases, on one process; see `training.making.Maker`."""

from __future__ import annotations

from pathlib import Path

from skippy.training.from_answers import MaskWork, SteerWork
from skippy.training.making import Anew, Made
from skippy.training.plan import RunSink


class MaskMaker(MaskWork, Anew):
    """Makes a mask."""

    def make(self, folder: Path, sink: RunSink, *, is_first: bool) -> Made | None:
        """Statistics, masks, placebo, deltas."""
        from skippy.training.mask import make_mask

        return make_mask(self, folder, sink) if is_first else None


class SteerMaker(SteerWork, Anew):
    """Makes biases."""

    def make(self, folder: Path, sink: RunSink, *, is_first: bool) -> Made | None:
        """Pairs, biases, what they do to the modules' outputs."""
        from skippy.training.steer_bias import make_bias

        return make_bias(self, folder, sink) if is_first else None
