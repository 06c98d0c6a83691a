"""The champion behind an engine: serving, chat and voice."""
