"""What a machine has for training, and what it lacks: `python -m distrib.doctor`."""
