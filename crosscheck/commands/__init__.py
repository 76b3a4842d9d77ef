"""What `python -m crosscheck` can be told to do, one file a command. Importing them imports neither torch nor JAX."""
