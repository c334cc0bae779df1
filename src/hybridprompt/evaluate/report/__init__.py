"""What a run of `hybridprompt evaluate` found, as one HTML page, plots with their numbers, and Markdown."""
