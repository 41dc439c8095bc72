"""The demo checkpoints and the demo suite's data are what the demo needs them to be.

They stay small, come in shards, are grouped-query Llama models that load without a missing key, and each fine-tune is
better than the base on text of its own domain that no model was trained on. The data of the suite is consistent, and
comes with the licences of the works it is taken from.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "examples" / "checkpoints"
DATA = ROOT / "suites" / "tasks" / "data"
MODELS = ("base", "scripture", "manual")
DOMAINS = ("glosses", "scripture", "manual")
CONTEXT = 256


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much where another process has the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read_items(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def logged_perplexities() -> dict[tuple[str, str], float]:
    with (CHECKPOINTS / "perplexities.csv").open(newline="", encoding="utf-8") as file:
        return {(row["model"], row["domain"]): float(row["byte_perplexity"]) for row in csv.DictReader(file)}


@torch.no_grad()
def surprise(model_name: str, domain: str, passages: int) -> tuple[float, int, int]:
    """Negative log-likelihood in nats of the first window of each passage, with its tokens and bytes."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / model_name)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / model_name, dtype=torch.float32).eval()
    nats, count, size = 0.0, 0, 0
    for item in read_items(f"{domain}.jsonl")[:passages]:
        tokens = [tokenizer.bos_token_id, *tokenizer(item["text"]).input_ids][: CONTEXT + 1]
        logits = model(torch.tensor([tokens[:-1]])).logits[0]
        nats -= float(torch.log_softmax(logits, -1)[range(len(tokens) - 1), tokens[1:]].sum())
        count += len(tokens) - 1
        size += len(tokenizer.decode(tokens[1:]).encode())
    return nats, count, size


def test_all_weights_together_stay_below_eight_megabytes():
    assert sum(shard.stat().st_size for shard in CHECKPOINTS.rglob("*.safetensors")) <= 8_000_000


@pytest.mark.parametrize("name", MODELS)
def test_each_checkpoint_is_sharded_and_its_index_names_every_shard(name):
    shards = {path.name for path in (CHECKPOINTS / name).glob("*.safetensors")}
    index = json.loads((CHECKPOINTS / name / "model.safetensors.index.json").read_text())
    assert len(shards) >= 2
    assert set(index["weight_map"].values()) == shards


@pytest.mark.parametrize("name", MODELS)
def test_each_checkpoint_is_a_grouped_query_llama_that_loads_whole_and_generates(name):
    config = json.loads((CHECKPOINTS / name / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_attention_heads"] == 4 * config["num_key_value_heads"]
    assert config["num_hidden_layers"] == 16
    model, loading = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / name, output_loading_info=True)
    assert model.dtype == torch.bfloat16
    assert not any(loading.values())
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / name)
    prompt = tokenizer("And it came to", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt.input_ids.shape[1]


@pytest.mark.parametrize("name", ["scripture", "manual"])
def test_tokenizer_and_architecture_are_those_of_the_base(name):
    for file in ("tokenizer.json", "config.json", "generation_config.json"):
        assert (CHECKPOINTS / name / file).read_bytes() == (CHECKPOINTS / "base" / file).read_bytes()


def test_tokenizer_gives_back_any_text_and_adds_no_special_token():
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "base")
    text = "Thus  saith\n\n.. function:: naïve(x)\n\t\u2028 ☃"
    tokens = tokenizer(text).input_ids
    assert tokenizer.decode(tokens) == text
    assert not set(tokens) & set(tokenizer.all_special_ids)


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["scripture", "manual"])
def test_each_fine_tune_is_better_than_the_base_on_held_out_text_of_its_own_domain_only(domain):
    other = {"scripture": "manual", "manual": "scripture"}[domain]
    perplexity = {}
    for name in ("base", domain, other):
        nats, count, _ = surprise(name, domain, passages=16)
        perplexity[name] = math.exp(nats / count)
    assert perplexity[domain] < 0.85 * perplexity["base"]
    assert perplexity[other] > 0.95 * perplexity["base"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logged_perplexities_are_those_of_the_stored_weights(name):
    texts = read_items("scripture.jsonl")
    nats, _, size = surprise(name, "scripture", passages=len(texts))
    # The training script scores the part of a passage beyond the context too, which is a few tokens in a hundred.
    assert math.exp(nats / size) == pytest.approx(logged_perplexities()[name, "scripture"], rel=0.03)


def test_log_holds_a_falling_loss_curve_of_every_model():
    with (CHECKPOINTS / "training-log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in MODELS:
        losses = [float(row["loss"]) for row in rows if row["model"] == name]
        assert losses[-1] < losses[0]
    assert set(logged_perplexities()) == {(name, domain) for name in MODELS for domain in DOMAINS}


def test_held_out_text_is_small_and_its_licences_lie_beside_it():
    assert sum(path.stat().st_size for path in DATA.glob("*.jsonl")) <= 300_000
    notice = (DATA / "NOTICE").read_text(encoding="utf-8")
    for work in ("King James Bible", "PSF LICENSE AGREEMENT", "ZERO-CLAUSE BSD LICENSE", "WORDNET 3.0 LICENSE"):
        assert work in notice


@pytest.mark.parametrize("domain", ["scripture", "manual"])
def test_cloze_choices_are_four_orders_of_the_same_words_and_answers_are_spread(domain):
    items = read_items(f"cloze_{domain}.jsonl")
    assert len(items) >= 36
    assert all(len(set(item["choices"])) == 4 for item in items)
    assert all(len({tuple(sorted(choice.split())) for choice in item["choices"]}) == 1 for item in items)
    counts = [sum(item["answer"] == place for item in items) for place in range(4)]
    assert sum(counts) == len(items)
    assert max(counts) < len(items) / 2


@pytest.mark.parametrize("domain", ["scripture", "manual"])
def test_next_words_are_words_that_the_filter_can_return(domain):
    for item in read_items(f"next_word_{domain}.jsonl"):
        assert item["word"].isalpha()
        assert not item["context"].endswith(" ")
