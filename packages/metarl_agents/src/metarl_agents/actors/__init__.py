"""One run over several processes or machines."""
