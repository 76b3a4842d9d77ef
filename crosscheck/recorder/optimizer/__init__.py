"""What the recorder reads of an optimizer: the rule that it claims, and its parameters, state and options."""
