"""Networks: perceptrons, actors, encoders, recurrent units, and what they are trained with."""
