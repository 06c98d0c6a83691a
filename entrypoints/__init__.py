"""What MLproject calls: parse, then run a stage."""
