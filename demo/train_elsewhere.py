"""Going on with an exported model on GPUs, on one machine or several: PyTorch and transformers, and nothing of SLiM.

    slim export base.bin base-hf
    torchrun --nproc_per_node 8 demo/train_elsewhere.py base-hf corpus.txt on-hf --steps 5000
    slim import on-hf on.bin

Every process keeps the whole model and learns from windows of its own; their gradients are averaged (data parallel).
Documents are separated by lines `<|endoftext|>`, as everywhere. Without a GPU it runs on the CPU, to try it out.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, AutoTokenizer

SEPARATOR = "<|endoftext|>"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a Hugging Face directory, as `slim export` writes it")
    parser.add_argument("text", help="UTF-8 text")
    parser.add_argument("out", help="the directory to write")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8, help="windows of each process in a step")
    parser.add_argument("--seq-len", type=int, default=0, help="default: the context of the model")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def tokens_of(tokenizer, text: str) -> torch.Tensor:
    """All documents one after the other, each begun by the start token. Text never becomes a special token."""
    documents = [part.strip("\n") for part in text.split(f"\n{SEPARATOR}\n")]
    ids = tokenizer([part for part in documents if part], split_special_tokens=True)["input_ids"]
    return torch.tensor([i for document in ids for i in document])


def rate(step: int, args: argparse.Namespace) -> float:
    """Up over the first twentieth, then down along a cosine to a tenth."""
    warmup = max(1, args.steps // 20)
    if step < warmup:
        return args.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, args.steps - warmup)
    return args.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))


def main() -> None:
    args = arguments()
    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokens = tokens_of(tokenizer, Path(args.text).read_text(encoding="utf-8"))
    length = min(args.seq_len or model.config.max_position_embeddings, len(tokens))
    parallel = DistributedDataParallel(model, device_ids=[device.index] if gpu else None)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95))
    dice = torch.Generator().manual_seed(args.seed * world + rank)  # other windows in each process
    for step in range(args.steps):
        starts = torch.randint(len(tokens) - length + 1, (args.batch,), generator=dice)
        batch = torch.stack([tokens[i : i + length] for i in starts.tolist()]).to(device)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args)
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            loss = parallel(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % max(1, args.steps // 20) == 0 or step + 1 == args.steps:
            dist.all_reduce(mean := loss.detach() / world)
            if rank == 0:
                print(f"step {step + 1:,} of {args.steps:,}   loss {mean.item():.4f}", flush=True)
    if rank == 0:
        model.save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
