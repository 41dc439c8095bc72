"""What stands before Dagster's web server: it decides which requests reach it.

Dagster's web server answers any page that a browser has open and anybody who reaches its port: it runs mutations by GET,
and looks at neither Host nor Origin. :mod:`~merge_assets.pipeline.front.gate` is the ASGI application around it,
:mod:`~merge_assets.pipeline.front.serve` runs both, with the daemon and the code server.
"""
