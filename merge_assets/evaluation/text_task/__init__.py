"""A text as a task of lm-eval, in files that its command reads, too."""
