"""Names everything that a run leaves in its folder. Scripts and users know these names, so they stay."""

CONFIG = "config.toml"
STATUS = "status.json"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
LARGEST_METRICS, LONGEST_LINE_OF_METRICS = 2**32, 2**16  # bytes that are read
TRACKERS = "trackers.json"
LOCK = ".lock"
CHECKPOINTS = "checkpoints"
TRACE = "trace"
CROSSCHECK = "crosscheck.json"
CROSSCHECK_PAGE = "crosscheck.html"
"""What the replay of the trace writes, which the run's page leads to."""
PAGE = "index.html"
FACTS = "page/facts.json"
IMAGES = "page/images.json"
MISTAKES = "page/mistakes.json"
"""The run's page, and what it needs beside what a run leaves anyway."""
PROFILE_TABLE = "profile.txt"
PROFILE_TRACE = "profile.json"
"""The profile of some steps, where `output.profile_steps` asks for one; the run's page leads to both."""

WRITTEN = (
    *(CONFIG, STATUS, SUMMARY, METRICS, TRACKERS, TRACE),
    *(PAGE, FACTS, IMAGES, MISTAKES, PROFILE_TABLE, PROFILE_TRACE),
    *(CROSSCHECK, CROSSCHECK_PAGE),
)
"""What a run may replace in its folder. It only adds to CHECKPOINTS, and so do trackers to folders of theirs."""
