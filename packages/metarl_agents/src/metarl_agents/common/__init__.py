"""What both ways of learning share: configuration, seeds, threads, the vector adapter."""
