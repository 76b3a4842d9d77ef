"""What a replay answers: the verdict, the findings behind it, and which steps of the run were on record."""
