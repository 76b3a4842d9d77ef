"""What a launcher sees of a run: requests to stop it, its status and outcome, its folder and the lock on it."""
