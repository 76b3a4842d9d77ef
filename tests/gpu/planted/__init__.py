"""Parts with a fault, for the tests of the kit."""
