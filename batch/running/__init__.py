"""From jobs to results: the Ray Data pipeline, its workers, and what a run does before and after it."""
