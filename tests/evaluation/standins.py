"""Data sets of the two Open LLM Leaderboards on a Hub of the tests: hand-made rows with the columns, configs and splits of the
real ones, which lm-eval's own tasks read; and a tiny model that can read them and ends its texts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import yaml

from tests.evaluation_support import WORDS
from tests.hub_server import HubServer

TASKS = Path(lm_eval.__file__).parent / "tasks"
GPQA_TOKEN = "a token for the gated data set"

Row = dict[str, Any]
Configs = Mapping[str, Mapping[str, Sequence[Row]]]
"""Rows per config and split."""


class _Writer:
    """Rows of random words, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def words(self, count: int) -> str:
        return " ".join(self.rng.choices(WORDS, k=count))

    def rows(self, count: int, row: Callable[[int], Row]) -> list[Row]:
        return [row(i) for i in range(count)]

    def choice(self, options: Sequence[Any]) -> Any:
        return self.rng.choice(options)

    # -- the first leaderboard

    def arc(self, i: int) -> Row:
        choices = {"text": [self.words(2) for _ in range(4)], "label": list("ABCD")}
        return {"id": str(i), "question": self.words(5), "choices": choices, "answerKey": self.choice("ABCD")}

    def hellaswag(self, i: int) -> Row:
        return {
            "ind": i, "activity_label": self.words(1), "ctx_a": self.words(4), "ctx_b": self.words(2), "ctx": "",
            "endings": [self.words(3) for _ in range(4)], "source_id": "", "split": "", "split_type": "",
            "label": self.choice("0123"),
        }  # fmt: skip

    def mmlu(self, subject: str) -> Callable[[int], Row]:
        return lambda i: {
            "question": self.words(4), "subject": subject, "choices": [self.words(1) for _ in range(4)],
            "answer": self.rng.randrange(4),
        }  # fmt: skip

    def truthfulqa(self, i: int) -> Row:
        def targets(right: int, wrong: int) -> Row:
            labels = [1] * right + [0] * wrong
            return {"choices": [self.words(3) for _ in labels], "labels": labels}

        return {"question": self.words(5), "mc1_targets": targets(1, 2), "mc2_targets": targets(2, 1 + i % 3)}

    def winogrande(self, i: int) -> Row:
        sentence = f"{self.words(3)} _ {self.words(3)}"
        one, other = self.rng.sample(WORDS, 2)
        return {"sentence": sentence, "option1": one, "option2": other, "answer": self.choice("12")}

    def gsm8k(self, i: int) -> Row:
        return {"question": self.words(6), "answer": f"{self.words(4)}\n#### {self.rng.randrange(99)}"}

    # -- the second

    def ifeval(self, i: int) -> Row:
        asked = [self.choice(list(_INSTRUCTIONS)) for _ in range(1 + i % 2)]
        kwargs = [{name: _INSTRUCTIONS[one].get(name) for name in _IFEVAL_ARGUMENTS} for one in asked]
        return {"key": i, "prompt": self.words(6), "instruction_id_list": asked, "kwargs": kwargs}

    def bbh(self, choices: Sequence[str]) -> Callable[[int], Row]:
        return lambda i: {"input": self.words(6), "target": self.choice(choices)}

    def math(self, i: int) -> Row:
        solution = f"{self.words(3)} $\\boxed{{{self.rng.randrange(99)}}}$."
        return {
            "problem": self.words(5),
            "level": "Level 3" if i % 3 == 2 else "Level 5",
            "type": "",
            "solution": solution,
        }

    def gpqa(self, i: int) -> Row:
        wrong = {f"Incorrect Answer {number}": self.words(number) for number in (1, 2, 3)}
        return {"Question": self.words(5), "Correct Answer": f"{self.words(2)} {i}", **wrong}

    def musr(self, choices: int) -> Callable[[int], Row]:
        def row(i: int) -> Row:
            names, answer = [self.words(2) for _ in range(choices)], self.rng.randrange(choices)
            return {
                "narrative": self.words(20), "question": self.words(3), "choices": str(names), "answer_index": answer,
                "answer_choice": names[answer],
            }  # fmt: skip

        return row

    def mmlu_pro(self, i: int) -> Row:
        options = [self.words(1) for _ in range(self.rng.randrange(3, 11))]
        answer = self.rng.randrange(len(options))
        return {
            "question_id": i, "question": self.words(5), "options": options, "answer": "ABCDEFGHIJ"[answer],
            "answer_index": answer, "cot_content": "", "category": "", "src": "",
        }  # fmt: skip


_INSTRUCTIONS: Mapping[str, Mapping[str, Any]] = {
    "punctuation:no_comma": {},
    "change_case:english_lowercase": {},
    "keywords:existence": {"keywords": ["the", "a"]},
    "length_constraints:number_words": {"relation": "at least", "num_words": 3},
    "length_constraints:number_sentences": {"relation": "at least", "num_sentences": 1},  # which asks for punkt
    "change_case:capital_word_frequency": {"capital_relation": "less than", "capital_frequency": 2},
    "language:response_language": {"language": "en"},
}
_IFEVAL_ARGUMENTS = sorted(
    {name for arguments in _INSTRUCTIONS.values() for name in arguments} | {"letter", "end_phrase", "first_word"}
)


def of_first(documents: int) -> Iterator[tuple[str, Configs]]:
    """The data sets of the first leaderboard.

    Args:
        documents: rows that are evaluated, of MMLU's subjects one to three times a third of it.
    """
    of = _Writer(1)
    trained = ("train", "validation", "test")
    yield "allenai/ai2_arc", {"ARC-Challenge": {split: of.rows(26, of.arc) for split in trained}}
    yield "Rowan/hellaswag", {"default": {split: of.rows(12, of.hellaswag) for split in trained}}
    subjects = [_read(file)["dataset_name"] for file in sorted((TASKS / "mmlu/default").glob("mmlu_*.yaml"))]
    yield (
        "cais/mmlu",
        {
            name: {
                "test": of.rows(max(1, documents * (1 + i % 3) // 3), of.mmlu(name)),
                "validation": of.rows(1, of.mmlu(name)),
                "dev": of.rows(5, of.mmlu(name)),
            }
            for i, name in enumerate(subjects)
        },
    )
    yield "truthfulqa/truthful_qa", {"multiple_choice": {"validation": of.rows(documents, of.truthfulqa)}}
    yield "allenai/winogrande", {"winogrande_xl": {split: of.rows(8, of.winogrande) for split in trained}}
    yield "openai/gsm8k", {"main": {split: of.rows(8, of.gsm8k) for split in ("train", "test")}}


def of_second(documents: int) -> Iterator[tuple[str, Configs]]:
    """The data sets of the second leaderboard."""
    of = _Writer(2)
    yield "wis-k/instruction-following-eval", {"default": {"train": of.rows(documents, of.ifeval)}}
    yield (
        "SaylorTwift/bbh",
        {
            task["dataset_name"]: {"test": of.rows(documents, of.bbh(task["doc_to_choice"]))}
            for task in map(_read, sorted((TASKS / "leaderboard/bbh_mc").glob("[a-z]*.yaml")))
        },
    )
    kinds = [_read(file)["dataset_name"] for file in sorted((TASKS / "leaderboard/math").glob("math_*.yaml"))]
    rows = {kind: {split: of.rows(2 * documents, of.math) for split in ("train", "test")} for kind in kinds}
    yield "DigitalLearningGmbH/MATH-lighteval", rows
    yield gpqa(documents)
    musr = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
    yield "TAUR-Lab/MuSR", {"default": {name: of.rows(documents, of.musr(choices)) for name, choices in musr.items()}}
    splits = {"validation": of.rows(5, of.mmlu_pro), "test": of.rows(documents, of.mmlu_pro)}
    yield "TIGER-Lab/MMLU-Pro", {"default": splits}


def gpqa(documents: int) -> tuple[str, Configs]:
    """GPQA, whose tasks shuffle the answers when they load."""
    of = _Writer(3)
    names = ("gpqa_diamond", "gpqa_extended", "gpqa_main")
    return "Idavidrein/gpqa", {name: {"train": of.rows(documents, of.gpqa)} for name in names}


def publish(server: HubServer, name: str, configs: Configs) -> str:
    """Lay a data set onto the Hub; its commit. GPQA is gated, as it is there."""
    described, files = [], {}
    for i, (config, splits) in enumerate(configs.items()):
        listed = []
        for split, rows in splits.items():
            file = f"{i}-{split}.jsonl"
            files[file] = "".join(json.dumps(row) + "\n" for row in rows).encode()
            listed.append({"split": split, "path": file})
        described.append({"config_name": config, "data_files": listed})
    files["README.md"] = f"---\n{yaml.safe_dump({'configs': described})}---\n".encode()
    commit = server.commit(f"datasets/{name}", files)
    if name == "Idavidrein/gpqa":
        server.gate(f"datasets/{name}", GPQA_TOKEN)
    return commit


def write_punkt(folder: Path) -> None:
    """Files as NLTK's ``punkt_tab`` has them for English, of a handful of words; ``NLTK_DATA`` may name the folder."""
    target = folder / "tokenizers" / "punkt_tab" / "english"
    target.mkdir(parents=True)
    files = {
        "abbrev_types.txt": "dr\nmr",
        "sent_starters.txt": "the",
        "collocations.tab": "st\tjohn",
        "ortho_context.tab": "king\t32",
    }
    for name, text in files.items():
        (target / name).write_text(text)


def write_reader(directory: Path) -> Path:
    """A random Llama of 4096 positions, whose words are those of the data sets and the letters and numbers of answers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    answers = [
        *"ABCDEFGHIJKLMNOPQR",
        *map(str, range(19)),
        *["True", "False", "Yes", "No", "yes", "no", "valid", "invalid", "(", ")", ":", ".", "####"],
    ]
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *answers, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        model.lm_head.weight[2] *= 3  # texts end before long
    model.save_pretrained(directory)
    wrapped.save_pretrained(directory)
    return directory


class _Loader(yaml.SafeLoader):
    """Reads task files; what is a function stays a name."""


_Loader.add_constructor("!function", lambda loader, node: node.value)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(file.read_text(), _Loader)
    return found
