"""Model-based learning: dynamics learned from real steps, and policies trained in them."""
