"""The reference world: a small language whose concepts, truths and probabilities are known."""
