"""Distance of steered states from the stream's own distribution, against what steering costs."""
