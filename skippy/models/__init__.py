"""Where targets are in a model family, how models load, how they generate."""
