"""Networks: perceptrons, actors, encoders, recurrent units, target networks and optimisers."""
