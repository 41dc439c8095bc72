"""Telling people, by webhook, Slack or e-mail, what needs them: each cause once, for as long as it lasts."""
