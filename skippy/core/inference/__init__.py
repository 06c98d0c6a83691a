"""What can be concluded from evaluations: intervals, verdicts and their errors."""
