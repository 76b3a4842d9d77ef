"""The report of a replay as one HTML file, which fetches nothing. It needs Jinja2, and neither torch nor JAX."""
