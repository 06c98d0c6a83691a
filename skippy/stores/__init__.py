"""Bytes on disk: checkpoints, projectors, samples."""
