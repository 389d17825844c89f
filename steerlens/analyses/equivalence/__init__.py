"""What a change of weights does to the stream, to first order and in truth."""
