"""One module per algorithm, each with its configuration and its whole update rule."""
