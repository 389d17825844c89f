"""Where will steering work? Numbers of each layer before it is steered, and a search by them."""
