"""An hour of a team and of bad luck: recipes and bases change while processes and the bucket's server are killed.

``python -m tests.faults.chaos --minutes 60 --seed 1``, or ``make chaos``. See docs/testing.md.
"""
