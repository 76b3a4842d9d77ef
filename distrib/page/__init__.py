"""index.html in a run's folder: one file that shows the run, made of what the folder holds. Nothing here needs torch."""

from pathlib import Path

PAGE = Path("index.html")
FACTS = Path("page/facts.json")
IMAGES = Path("page/images.json")
MISTAKES = Path("page/mistakes.json")
"""Files within a run's folder: the page, and what it needs beside what a run leaves anyway."""
PROFILE_TABLE = Path("profile.txt")
PROFILE_TRACE = Path("profile.json")
"""The profile of some steps, where `output.profile_steps` asks for one; the run's page leads to both."""
CROSSCHECK_PAGE = Path("crosscheck.html")
"""The page of the cross-check, which its replay writes; the run's page leads to it."""
