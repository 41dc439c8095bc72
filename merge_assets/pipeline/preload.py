"""What the process that forks step processes imports before the first step: the slow packages.

Nothing here touches a GPU: a CUDA context does not survive a fork.
"""

import contextlib
import os

from merge_assets.pipeline.executor import steps_at_once

# Steps that run side by side share the cores. OpenMP threads without a core of their own spin at every barrier, which
# made evaluations of small models a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // steps_at_once())))
# The steps report their progress themselves.
os.environ.setdefault("TQDM_DISABLE", "1")

for _name in ("torch", "transformers", "lm_eval.evaluator", "lm_eval.models.huggingface"):
    with contextlib.suppress(ImportError):
        __import__(_name)
