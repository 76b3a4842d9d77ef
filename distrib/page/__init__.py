"""index.html in a run's folder: one file that shows the run, made of what the folder holds. Nothing here needs torch."""
