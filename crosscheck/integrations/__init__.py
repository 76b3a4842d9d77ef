"""The recorder in other people's training loops, one module a library; each imports its library, and none imports JAX."""
