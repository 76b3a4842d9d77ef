"""Many runs of one file, on this machine: `python -m distrib.sweep`. On a cluster the same file is an array of jobs."""
