"""The story: each stage is run(config, tracker) -> result."""
