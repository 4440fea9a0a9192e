"""Learning from trials: batches of whole episodes of each task, with learning between them."""
