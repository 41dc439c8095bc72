"""Suites, their evaluation through lm-eval, the scores, and the leaderboard."""
