"""Turns a plan into bytes: streaming, exact, in bounded memory."""
