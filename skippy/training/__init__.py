"""GRPO under a constraint: the only place that imports trl."""
