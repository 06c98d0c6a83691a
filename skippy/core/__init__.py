"""The mathematics, pure: no files, clock, environment, logging or global random state."""
