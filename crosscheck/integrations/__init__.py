"""Attaches the recorder to the training loops of other libraries, one module for each.

Each imports its library, and none imports JAX.
"""
