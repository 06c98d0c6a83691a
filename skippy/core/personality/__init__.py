"""The character in activation space: subspaces, deltas, traits, nulls."""
