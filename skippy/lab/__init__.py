"""The built-in small model, its problems and its everyday chat."""
