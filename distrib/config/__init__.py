"""Configuration: a TOML recipe, dotted overrides, and the help that lists every key."""
