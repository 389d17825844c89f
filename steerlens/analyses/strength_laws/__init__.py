"""Which law of the strength describes what steering does and costs, by held-out error."""
