"""Contract: what lm-eval's class ``vllm`` is given, and what is said where vLLM is not installed.

No machine of these tests runs vLLM, so the class itself is not made here: its source says which arguments it takes. What stands
in front of it is made of a class of lm-eval that runs here, with the same methods.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import TemplateLM

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.model_settings import ModelSettings
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.suite import load_suite
from tests.evaluation_support import write_checkpoint, write_suite

OF_LLM = {"gpu_memory_utilization"}
"""What lm-eval's class hands on to vLLM's ``LLM``."""


def taken() -> set[str]:
    """The arguments of lm-eval's class."""
    spec = find_spec("lm_eval.models.vllm_causallms")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    (kind,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "VLLM")
    (made,) = (node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {argument.arg for argument in [*made.args.args, *made.args.kwonlyargs]}


def test_lm_evals_class_is_given_what_the_suite_says() -> None:
    from merge_assets.evaluation.vllm_lm import vllm_arguments

    plain = vllm_arguments(Path("m"), ModelSettings(backend="vllm"), dtype="auto", batch_size="auto", trust=False)
    assert plain == {"pretrained": "m", "dtype": "auto", "batch_size": "auto"}
    settings = ModelSettings.model_validate(
        {
            "backend": "vllm",
            "max_length": 100,
            "model_args": {
                "add_bos_token": True,
                "prefix_token_id": 3,
                "enable_thinking": True,
                "think_end_token": "x",
            },
            "vllm": {"tensor_parallel_size": 2, "data_parallel_size": 4, "gpu_memory_utilization": 0.5},
        }
    )
    given = vllm_arguments(Path("m"), settings, dtype="float16", batch_size=8, trust=True)
    assert given == {
        "pretrained": "m",
        "dtype": "float16",
        "batch_size": 8,
        "trust_remote_code": True,
        "max_length": 100,
        "add_bos_token": True,
        "prefix_token_id": 3,
        "enable_thinking": True,
        "think_end_token": "x",
        "tensor_parallel_size": 2,
        "data_parallel_size": 4,
        "gpu_memory_utilization": 0.5,
    }
    assert given.keys() - OF_LLM <= taken()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
@pytest.mark.parametrize(("keys", "missing"), [("", "vllm"), ("vllm: {data_parallel_size: 2}", "vllm and ray")])
def test_without_the_package_the_tasks_fail_with_how_to_install_it(keys: str, missing: str, tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    path.write_text(f"{path.read_text()}backend: vllm\n{keys}\n")
    with pytest.raises(EvaluationError) as error:
        evaluate_suite(write_checkpoint(tmp_path / "m"), load_suite(path), results=TaskResults(tmp_path / "r"))
    install = missing.replace(" and", "")
    assert f"backend: vllm needs {missing}, which is not installed: pip install {install} (for CUDA)" in str(
        error.value
    )


class Said(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """In the place of lm-eval's class: answers of its own to whatever is asked, batch by batch."""

    model_args = {"dtype": "auto"}  # noqa: RUF012 - as there
    max_gen_toks, max_length, eot_token_id = 4, 6, 0

    def __init__(self, batch_size: object) -> None:
        super().__init__()
        self.batch_size = batch_size  # as lm-eval's class does
        self.asked: list[int] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool) -> list[str]:
        self.asked.append(len(requests))
        return ["a b c d" if request.args[0].startswith("long") else "a" for request in requests]

    def tok_encode(self, text: str) -> list[str]:
        return text.split()

    class tokenizer:
        """Words are tokens."""

        @staticmethod
        def encode(text: str, add_special_tokens: bool) -> list[str]:
            return text.split()


def test_what_is_asked_of_it_goes_in_batches_that_are_kept_and_flaws_are_counted() -> None:
    from lm_eval.api.instance import Instance

    from merge_assets.evaluation.vllm_lm import watched_kind

    lm = watched_kind(Said)(batch_size="auto")
    assert lm.batch_size == 512
    lm.batches = 2
    kept: dict[str, Any] = {}
    requests = [
        Instance("generate_until", {}, (text, {"until": ["."]}), 0, metadata=("t", number, 1))
        for number, text in enumerate(["long", "short", "much too long"])
    ]
    lm.begin({}, kept.__setitem__)
    first = lm.generate_until(requests)
    assert first == ["a b c d", "a", "a"]
    assert lm.asked == [2, 1]
    flaws = lm.flaws()["t"]
    assert (flaws.endless, flaws.truncated, flaws.empty) == (1, 1, 0)
    lm.begin(kept, kept.__setitem__)
    assert lm.generate_until(requests) == first
    assert lm.asked == [2, 1]
