"""What should exist, what does, what is being made, what failed and when; and what follows from that now.

:mod:`facts` is what there is to know, :mod:`decide` what is done about it and why, :mod:`learn` what is remembered of runs that
ended: all plain data. :mod:`read` reads the facts from the Dagster instance. The sensor of
:mod:`merge_assets.pipeline.automation` and `merge-assets status` ask the same questions here.
"""
