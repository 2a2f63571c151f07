"""From options to jobs: which images to make, with which settings, under which names, and which are left to make."""
