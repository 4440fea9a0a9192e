"""Documentation of a family: its page, a plot of its task space, frames."""
