"""The gradient twin: the trainer's network in JAX, to recompute the gradient of a recorded batch. Never imports torch."""
