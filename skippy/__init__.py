"""A character for a language model, and what it costs in mathematics."""
