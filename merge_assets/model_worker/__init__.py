"""The model worker: the one process in which a model, tokenizer, generation config or chat template of a stranger is loaded.

It has no network, no terminal and none of our secrets, bounds on memory, files and time, and dies with who asked for it. What
it does is a *verb*: a function of a room above, named ``module:function``, that gets a :class:`Desk` and arguments and returns
what JSON can hold. Another verb is another function.
"""

from merge_assets.model_worker.client import Limit, ModelWorker, ask
from merge_assets.model_worker.code import code_folder
from merge_assets.model_worker.desk import FOREIGN, Desk, reason
from merge_assets.model_worker.limits import Limits
from merge_assets.model_worker.nursery import prepare

__all__ = ["FOREIGN", "Desk", "Limit", "Limits", "ModelWorker", "ask", "code_folder", "prepare", "reason"]
