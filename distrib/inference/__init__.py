"""The trained network, for use after the run."""
