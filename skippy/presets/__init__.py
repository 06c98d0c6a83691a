"""Training presets: YAML files, their schema and their reader."""
