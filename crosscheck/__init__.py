"""The cross-check: replays a recorded run through Optax. Not written yet; see CHANGELOG.md for what is."""
