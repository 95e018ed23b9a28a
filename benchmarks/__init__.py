"""`make bench`: what the farm costs, measured beside what it cannot be faster than."""
