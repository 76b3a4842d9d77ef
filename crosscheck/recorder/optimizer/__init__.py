"""What is recorded: the torch optimizer inside its wrappers, the rule that it claims, its parameters, state and options."""
