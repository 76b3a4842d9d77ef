"""Pages, each one HTML file that fetches nothing. They need Jinja2, and neither torch nor JAX."""
