"""From a recipe and overrides to checked values, for any set of sections; help and messages for the person who wrote them."""
