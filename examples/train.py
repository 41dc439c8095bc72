#!/usr/bin/env python3
"""Train the demo checkpoints: one base and two fine-tunes of it, small enough to be kept in the repository.

All three are Llama models of 16 layers with grouped-query attention (8 heads, 2 key-value heads) and one byte-level BPE
tokenizer. ``base`` learns from a mix of three domains, mostly WordNet's glosses; ``scripture`` and ``manual`` start
from it and see one domain each, at a moderate learning rate, so that they stay close enough to the base and to each
other to be merged. While the base trains, middle layers are skipped at random, so that it bears layers being removed or
repeated.

The training text is read from Debian packages (see prepare_texts.py); the held-out text that the perplexities refer to
is ``suites/tasks/data/<domain>.jsonl``. Seeds are fixed; the same machine, threads and package versions give the same
weights. Writes each checkpoint, ``training-log.csv`` (loss curves) and ``perplexities.csv`` (held-out text) to --out.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from prepare_texts import READERS, SUITE_DATA, load_domain
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
VOCABULARY = 1024
CONTEXT = 256
MODELS = ["base", "scripture", "manual"]
SHARD_SIZE = "1400KB"
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TOKENIZER_CHARACTERS = 1_500_000


@dataclass(frozen=True)
class Course:
    """How one model is trained."""

    name: str
    start: str | None
    mix: dict[str, float]
    steps: int
    learning_rate: float
    layer_drop: float
    seed: int


@dataclass
class Log:
    """The two tables this script writes."""

    steps: list[dict[str, str]] = field(default_factory=list)
    perplexities: list[dict[str, str]] = field(default_factory=list)

    def write(self, out: Path) -> None:
        """Write ``training-log.csv`` and ``perplexities.csv``; rows there of models not trained now are kept."""
        for name, rows in (("training-log.csv", self.steps), ("perplexities.csv", self.perplexities)):
            path, trained = out / name, {row["model"] for row in rows}
            if path.exists():
                with path.open(newline="", encoding="utf-8") as file:
                    rows = [row for row in csv.DictReader(file) if row["model"] not in trained] + rows
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


def train_tokenizer(texts: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the same number of characters of every domain.

    It adds no special token by itself: lm-eval puts the beginning-of-sequence token before a text whose likelihood it
    takes, and would otherwise put it twice.
    """

    def samples() -> Iterator[str]:
        for documents in texts.values():
            whole = sum(map(len, documents))
            every = max(1, whole // TOKENIZER_CHARACTERS)
            yield from documents[::every]

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Build an untrained model; projections into the residual stream start smaller by the root of their number."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=176,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=CONTEXT,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.div_(math.sqrt(2 * config.num_hidden_layers))
    return model


def sample_windows(
    streams: dict[str, torch.Tensor], mix: dict[str, float], count: int, length: int, generator: torch.Generator
) -> torch.Tensor:
    """Return int64 windows of shape (count, length + 1), each from a random place of a random domain."""
    names, windows = list(mix), []
    weights = torch.tensor([mix[name] for name in names])
    for index in torch.multinomial(weights, count, replacement=True, generator=generator).tolist():
        stream = streams[names[index]]
        start = int(torch.randint(len(stream) - length, (1,), generator=generator))
        windows.append(stream[start : start + length + 1])
    return torch.stack(windows).long()


def learning_rate_factor(step: int, steps: int) -> float:
    """Return a linear warm-up over the first twentieth and a linear decay to zero."""
    warm_up = max(1, steps // 20)
    return min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))


@torch.no_grad()
def byte_perplexity(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Return exp(negative log-likelihood per UTF-8 byte), every text scored from a beginning-of-sequence token."""
    total = 0.0
    for text in texts:
        tokens = torch.tensor([tokenizer(BOS + text).input_ids], device=model.device)
        for start in range(0, tokens.shape[1] - 1, CONTEXT):
            window = tokens[:, start : start + CONTEXT + 1]
            logits = model(input_ids=window[:, :-1], use_cache=False).logits.float()
            total += float(cross_entropy(logits[0], window[0, 1:], reduction="sum"))
    return math.exp(total / sum(len(text.encode()) for text in texts))


def held_out_texts() -> dict[str, list[str]]:
    """Read the demo suite's passages of every domain."""
    return {
        domain: [json.loads(line)["text"] for line in (SUITE_DATA / f"{domain}.jsonl").open(encoding="utf-8")]
        for domain in READERS
    }


def train(
    model: LlamaForCausalLM, course: Course, streams: dict[str, torch.Tensor], batch: int, device: str, log: Log
) -> None:
    """Train in place with AdamW; prints and logs the mean loss of every 20 steps.

    The first two thirds of the steps read windows of half the context, twice as many, which is faster.
    """
    generator = torch.Generator().manual_seed(course.seed)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=course.learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, course.steps))
    layers = list(model.model.layers)
    model.train()
    started, losses = time.monotonic(), []
    for step in range(1, course.steps + 1):
        skipped = torch.rand(len(layers), generator=generator) < course.layer_drop
        skipped[0] = skipped[-1] = False
        model.model.layers = torch.nn.ModuleList(layer for layer, skip in zip(layers, skipped, strict=True) if not skip)
        share = 2 if step <= course.steps * 2 // 3 else 1
        window = sample_windows(streams, course.mix, batch * share, CONTEXT // share, generator).to(device)
        logits = model(input_ids=window[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 20 == 0 or step == course.steps:
            row = {
                "model": course.name,
                "step": str(step),
                "tokens": str(step * batch * CONTEXT),
                "learning_rate": f"{rate:.6f}",
                "loss": f"{sum(losses) / len(losses):.4f}",
                "seconds": f"{time.monotonic() - started:.1f}",
            }
            log.steps.append(row)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            losses = []
    model.model.layers = torch.nn.ModuleList(layers)
    model.eval()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> LlamaForCausalLM:
    """Write a checkpoint in bfloat16 and return it as read back, so that figures are those of the stored weights."""
    for old in directory.glob("*.safetensors*"):
        old.unlink()
    stored = model.to("cpu", torch.bfloat16)
    stored.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=64,
    )
    stored.save_pretrained(directory, max_shard_size=SHARD_SIZE)
    for shard in directory.glob("*.safetensors"):
        shard.chmod(0o644)
    tokenizer.save_pretrained(directory)
    return LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)


def record_perplexities(
    model: LlamaForCausalLM, name: str, tokenizer: PreTrainedTokenizerFast, device: str, log: Log
) -> None:
    """Log and print a model's byte perplexity on every domain's held-out text."""
    model.to(device).eval()
    for domain, texts in held_out_texts().items():
        value = byte_perplexity(model, tokenizer, texts)
        log.perplexities.append({"model": name, "domain": domain, "byte_perplexity": f"{value:.4f}"})
        print(f"{name}: byte perplexity {value:.4f} on held-out {domain}", flush=True)


def fine_mix(domain: str) -> dict[str, float]:
    """Return the mix of a fine-tune: mostly its domain, a little of the others, so that they are not all forgotten."""
    return {name: 0.8 if name == domain else 0.1 for name in READERS}


def main() -> None:
    """Train all three models and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = argparse.ArgumentDefaultsHelpFormatter
    parser.formatter_class = type("Help", (argparse.RawDescriptionHelpFormatter, defaults), {})
    parser.add_argument("models", nargs="*", default=MODELS, help="which to train, in this order")
    parser.add_argument("--out", type=Path, default=HERE / "checkpoints", help="folder of the checkpoints")
    parser.add_argument("--base-steps", type=int, default=1500, help="steps of the base")
    parser.add_argument("--tune-steps", type=int, default=400, help="steps of each fine-tune")
    parser.add_argument("--batch", type=int, default=8, help=f"windows of {CONTEXT} tokens per step")
    parser.add_argument("--base-rate", type=float, default=4e-3, help="peak learning rate of the base")
    parser.add_argument("--tune-rate", type=float, default=6e-4, help="peak learning rate of the fine-tunes")
    parser.add_argument("--layer-drop", type=float, default=0.1, help="probability that the base skips a middle layer")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    texts = {domain: [document.text for document in load_domain(domain)[0]] for domain in READERS}
    tokenizer = train_tokenizer(texts)
    streams = {}
    for domain, documents in texts.items():
        encoded = tokenizer([BOS + text + EOS for text in documents]).input_ids
        streams[domain] = torch.tensor([token for document in encoded for token in document], dtype=torch.int16)
        print(
            f"{domain}: {len(streams[domain])} tokens of {sum(map(len, documents)) / len(streams[domain]):.2f} characters"
        )

    mix = {"glosses": 0.6, "scripture": 0.2, "manual": 0.2}
    courses = [
        Course("base", None, mix, options.base_steps, options.base_rate, options.layer_drop, seed=1),
        Course("scripture", "base", fine_mix("scripture"), options.tune_steps, options.tune_rate, 0.0, seed=2),
        Course("manual", "base", fine_mix("manual"), options.tune_steps, options.tune_rate, 0.0, seed=3),
    ]
    for course in (course for name in options.models for course in courses if course.name == name):
        log = Log()
        if course.start is None:
            model = new_model(tokenizer, course.seed)
        else:
            model = LlamaForCausalLM.from_pretrained(options.out / course.start, dtype=torch.float32)
        train(model.to(options.device), course, streams, options.batch, options.device, log)
        stored = save(model, tokenizer, options.out / course.name)
        record_perplexities(stored, course.name, tokenizer, options.device, log)
        log.write(options.out)


if __name__ == "__main__":
    main()
