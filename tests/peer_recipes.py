"""Recipes on which mergekit 0.1.5 and this engine must agree; ``$base`` and so on stand for checkpoint folders.

Every deterministic method, with filters, gradients, slices at different offsets, and parameters of one model, of a slice
and of the whole recipe.
"""

from __future__ import annotations

TRIO = """
base_model: $base
models:
  - {model: $one, parameters: {weight: 0.7, density: 0.5}}
  - {model: $two, parameters: {weight: 0.5, density: 0.4}}
  - {model: $three, parameters: {weight: 0.3, density: 0.3}}
"""
OPPOSED = """
base_model: $base
models:
  - {model: $one, parameters: {weight: 0.7, density: 0.5}}
  - {model: $two, parameters: {weight: 0.5, density: 0.4}}
  - {model: $three, parameters: {weight: -0.3, density: 0.8}}
"""
FILTERED = """
base_model: $base
models:
  - model: $base
  - model: $one
    parameters:
      weight: [{filter: self_attn, value: [0, 0.5, 1]}, {filter: mlp, value: 0.3}, {value: 0.6}]
      density: [{filter: mlp.down, value: [1, 0.2]}, {value: 0.7}]
  - model: $two
    parameters:
      weight: [0.9, 0.1, 0.4, 0.8]
      density: [{filter: q_proj, value: 0.25}, {value: 0.8}]
"""
WEIGHTED = """
models:
  - {model: $one, parameters: {weight: 0.6}}
  - {model: $two, parameters: {weight: 0.4}}
  - {model: $three, parameters: {weight: 0.2}}
"""
PAIR = """
models:
  - {model: $one, parameters: {weight: 0.6}}
  - {model: $two, parameters: {weight: 0.4}}
"""
BASE = "\nbase_model: $base"
EVEN = "\nmodels: [{model: $one}, {model: $two}, {model: $three}]\n"
ONE = "\nbase_model: $base\nmodels: [{model: $one}]\n"

_STRAIGHT = {
    "passthrough": "merge_method: passthrough\nmodels: [{model: $one}]\n",
    "passthrough: stack": """
merge_method: passthrough
slices:
  - sources: [{model: $one, layer_range: [0, 4]}]
  - sources: [{model: $two, layer_range: [2, 6]}]
""",
    "passthrough: scales by filter and gradient": """
merge_method: passthrough
slices:
  - sources: [{model: $one, layer_range: [0, 4]}]
  - sources:
      - model: $one
        layer_range: [2, 6]
        parameters:
          scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: [0, 2]}, {value: 1.0}]
""",
    "linear": "merge_method: linear" + WEIGHTED,
    "linear: not normalised": "merge_method: linear" + WEIGHTED + "parameters: {normalize: false}\n",
    "linear: filters and gradients": """
merge_method: linear
models:
  - model: $one
    parameters: {weight: [{filter: self_attn, value: [0, 0.5, 1]}, {filter: mlp, value: 0.3}, {value: 0.6}]}
  - model: $two
    parameters: {weight: [0.9, 0.1, 0.4, 0.8]}
""",
    "linear: slices at different offsets, parameters on every level": """
merge_method: linear
slices:
  - sources:
      - {model: $one, layer_range: [0, 3], parameters: {weight: 0.8}}
      - {model: $two, layer_range: [1, 4], parameters: {weight: [0.1, 0.4]}}
    parameters: {normalize: false}
  - sources:
      - {model: $two, layer_range: [2, 5]}
      - model: $three
        layer_range: [3, 6]
        parameters: {weight: [{filter: mlp, value: [0, 1, 0.5]}, {filter: layers.4, value: 0.2}]}
    parameters: {weight: [{filter: attn, value: 0.7}]}
parameters: {weight: [0.5, 0.6]}
""",
}
_SPHERICAL = {
    "slerp": "merge_method: slerp\nbase_model: $one\nmodels: [{model: $one}, {model: $two}]\nparameters: {t: 0.3}\n",
    "slerp: base not listed": "merge_method: slerp" + ONE + "parameters: {t: 0.3}\n",
    "slerp: nearly parallel": "merge_method: slerp" + BASE + "\nmodels: [{model: $near}]\nparameters: {t: 0.3}\n",
    "slerp: filters and gradients": """
merge_method: slerp
base_model: $one
models: [{model: $one}, {model: $two}]
parameters:
  t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]
""",
    "slerp: slices at different offsets, each with its t": """
merge_method: slerp
base_model: $one
slices:
  - sources: [{model: $one, layer_range: [0, 3]}, {model: $two, layer_range: [1, 4]}]
    parameters: {t: [0.1, 0.9]}
  - sources: [{model: $two, layer_range: [2, 5]}, {model: $one, layer_range: [3, 6]}]
parameters: {t: [{filter: norm, value: 0.8}, {value: 0.4}]}
""",
    "nuslerp": "merge_method: nuslerp" + PAIR,
    "nuslerp: differences": "merge_method: nuslerp" + BASE + PAIR,
    "multislerp": "merge_method: multislerp" + WEIGHTED,
    "multislerp: differences": "merge_method: multislerp" + BASE + WEIGHTED,
    "multislerp: not normalised": "merge_method: multislerp" + WEIGHTED + "parameters: {normalize_weights: false}\n",
    "karcher": "merge_method: karcher" + EVEN,
    "karcher: few iterations": "merge_method: karcher" + EVEN + "parameters: {max_iter: 2, tol: 1.0e-9}\n",
    "model_stock": "merge_method: model_stock" + BASE + EVEN,
    "model_stock: by rows": "merge_method: model_stock" + BASE + EVEN + "parameters: {filter_wise: true}\n",
}
_TASK_VECTORS = {
    "task_arithmetic": "merge_method: task_arithmetic" + OPPOSED + "parameters: {lambda: 0.8}\n",
    "task_arithmetic: normalised": "merge_method: task_arithmetic" + TRIO + "parameters: {normalize: true}\n",
    "task_arithmetic: filters and gradients": "merge_method: task_arithmetic" + FILTERED,
    "ties": "merge_method: ties" + TRIO,
    "ties: a negative weight": "merge_method: ties" + OPPOSED + "parameters: {normalize: false, lambda: 1.3}\n",
    "ties: rescaled": "merge_method: ties" + TRIO + "parameters: {rescale: true, int8_mask: true}\n",
    "ties: filters and gradients": "merge_method: ties" + FILTERED,
    "ties: slices, parameters on every level": """
merge_method: ties
base_model: $base
slices:
  - sources:
      - {model: $one, layer_range: [0, 3]}
      - {model: $two, layer_range: [0, 3], parameters: {weight: 0.9}}
      - {model: $base, layer_range: [0, 3]}
    parameters: {density: [0.2, 0.9]}
  - sources:
      - {model: $one, layer_range: [1, 5]}
      - {model: $two, layer_range: [2, 6]}
      - {model: $base, layer_range: [1, 5]}
parameters: {weight: 0.5, density: [{filter: mlp, value: 0.3}, {value: 0.6}]}
""",
    "breadcrumbs": "merge_method: breadcrumbs" + TRIO + "parameters: {gamma: 0.1}\n",
    "breadcrumbs: rescaled": "merge_method: breadcrumbs" + TRIO + "parameters: {gamma: 0.1, rescale: true}\n",
    "breadcrumbs: filters and gradients": "merge_method: breadcrumbs" + FILTERED + "parameters: {gamma: 0.01}\n",
    "breadcrumbs: density and gamma above 1": "merge_method: breadcrumbs"
    + ONE
    + "parameters: {weight: 1, density: 0.9, gamma: 0.2}\n",
    "breadcrumbs_ties": "merge_method: breadcrumbs_ties" + OPPOSED + "parameters: {gamma: 0.1}\n",
    "dare_linear: dense": "merge_method: dare_linear" + BASE + WEIGHTED + "parameters: {density: 1}\n",
    "dare_ties: dense": "merge_method: dare_ties" + BASE + WEIGHTED + "parameters: {density: 1}\n",
    "della: dense": "merge_method: della" + BASE + WEIGHTED + "parameters: {density: 1}\n",
    "della_linear: dense": "merge_method: della_linear" + BASE + WEIGHTED + "parameters: {density: 1}\n",
    "sce": "merge_method: sce" + BASE + EVEN,
    "sce: some elements": "merge_method: sce" + BASE + EVEN + "parameters: {select_topk: 0.3}\n",
}
_ELEMENTWISE = {
    "nearswap": "merge_method: nearswap" + ONE + "parameters: {t: 0.1}\n",
    "arcee_fusion": "merge_method: arcee_fusion" + ONE,
    "ram": "merge_method: ram" + BASE + EVEN + "parameters: {epsilon: 0.3}\n",
    "ramplus_tl": "merge_method: ramplus_tl" + BASE + EVEN + "parameters: {epsilon: 0.3, r: 0.2, alpha: 0.4}\n",
}
EQUAL = {**_STRAIGHT, **_SPHERICAL, **_TASK_VECTORS, **_ELEMENTWISE}
"""Recipe texts by what they try; the output is compared at float32."""

DENSITY, EPSILON = 0.5, 0.2
RANDOM = {
    f"{method}: {'rescaled' if rescale else 'thinned'}": f"merge_method: {method}"
    + ONE
    + f"parameters: {{weight: 1, density: {DENSITY}, rescale: {str(rescale).lower()}"
    + (f", epsilon: {EPSILON}}}\n" if method.startswith("della") else "}\n")
    for method in ("dare_linear", "dare_ties", "della", "della_linear")
    for rescale in (False, True)
}
"""Recipes of random methods with a single task vector, which their output shows as it was thinned."""

_OPPOSITE = """
models:
  - {model: $one, parameters: {weight: 1}}
  - {model: $two, parameters: {weight: -1}}
"""
REFUSED = {
    "linear: weights that sum to zero": ("merge_method: linear" + _OPPOSITE, "sum to 0"),
    "multislerp: weights that sum to zero": ("merge_method: multislerp" + _OPPOSITE, "sum to 0"),
    "NaN in an input": (
        "merge_method: linear\nmodels: [{model: $nan}, {model: $two}]\nparameters: {weight: 0.5}\n",
        r"lm_head.weight \(1\)",
    ),
    "misspelt parameter": (
        "merge_method: linear\nmodels: [{model: $one}, {model: $two}]\nparameters: {weight: 1, normalise: false}\n",
        "did you mean 'normalize'",
    ),
    "misspelt key": (
        "merge_method: linear\nbase_modle: $one\nmodels: [{model: $one}, {model: $two}]\nparameters: {weight: 1}\n",
        "did you mean 'base_model'",
    ),
    "reversed layers": (
        "merge_method: passthrough\nslices: [{sources: [{model: $one, layer_range: [3, 1]}]}]\n",
        "is reversed",
    ),
    "tensor that one model lacks": (
        "merge_method: linear\nmodels: [{model: $bias}, {model: $two}]\nparameters: {weight: 0.5}\n",
        "has no tensor model.layers.0.self_attn.q_proj.bias",
    ),
    "only the base": (
        "merge_method: ties" + BASE + "\nmodels: [{model: $base}]\nparameters: {weight: 1}\n",
        "at least 1",
    ),
}
"""Recipes that mergekit runs and this project refuses, with what the error says."""

DIFFERENT = {
    "nuslerp: rows": "merge_method: nuslerp" + PAIR + "parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n",
    "nuslerp: columns": "merge_method: nuslerp" + PAIR + "parameters: {nuslerp_flatten: false}\n",
    "slerp: zero vector": "merge_method: slerp\nbase_model: $zero\nmodels: [{model: $one}]\nparameters: {t: 0.3}\n",
    "two layers of one model": """
merge_method: linear
slices:
  - sources: [{model: $one, layer_range: [0, 3]}, {model: $one, layer_range: [3, 6]}]
parameters: {weight: 0.5}
""",
    "more models in the last slice": """
merge_method: linear
slices:
  - sources: [{model: $one, layer_range: [0, 3]}]
  - sources: [{model: $one, layer_range: [3, 6]}, {model: $two, layer_range: [3, 6]}]
parameters: {weight: 0.5}
""",
    "tensor of no template": "merge_method: passthrough\nmodels: [{model: $bias}]\n",
    "ties: less than one element": "merge_method: ties" + ONE + "parameters: {weight: 1, density: 0.01}\n",
    "della: probabilities beyond 0 and 1": "merge_method: della"
    + ONE
    + "parameters: {weight: 1, density: 0.1, epsilon: 0.15}\n",
}
"""Recipes that both run, or only this project, with different results."""
