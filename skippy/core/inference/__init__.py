"""What answers show: accuracy, paired tests, seeds, matching, power; and over a study, dose and loss."""
