"""What the console script offers besides stages: looking at runs, models and one run."""
