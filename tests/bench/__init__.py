"""`python -m tests.bench`: this project's training loop beside the loops that people write with other libraries."""
