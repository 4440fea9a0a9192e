"""What documents a family: its page, its task space as a picture, frames."""
