"""What answers show: extraction, accuracy, paired tests, seeds, matching, power."""
