"""The trace on disk: the only thing that recorder and replayer share. Specified in docs/trace.md."""
