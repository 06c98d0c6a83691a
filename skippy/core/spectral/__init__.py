"""Weights and updates as operators: certified subspaces, the constraint, leakage, margins."""
