"""``python -m chatpager.demo.train``: makes the conversations, the tokenizer and the weights of the built-in model.

The conversations and the tokenizer are the same for the same seed on every machine. The weights are not, bit for bit:
sums are taken in another order on another processor or with another number of threads or workers. A run can be stopped
and started again with the same command; it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import distributed
from torch.multiprocessing.spawn import spawn
from transformers import GenerationConfig, LlamaForCausalLM

from chatpager.demo.batches import Batch, make_round
from chatpager.demo.conversations import stream
from chatpager.demo.forward import Forward
from chatpager.demo.recipe import Recipe
from chatpager.demo.tokenizer import END_ID, EOT_ID, PAD_ID, Encoder, render, save_tokenizer, train_tokenizer

LOG_SECONDS = 30.0
CHECKPOINT_SECONDS = 240.0


class Training:
    """The state of a run, and its steps. ``rank`` of ``workers`` processes takes its share of the micro-batches."""

    def __init__(
        self, recipe: Recipe, out: Path, device: str, *, rank: int = 0, workers: int = 1, compiled: bool = False
    ) -> None:
        self.recipe, self.out, self.device, self.rank, self.workers = recipe, out, device, rank, workers
        self.step = self.round = self.tokens = 0
        self.seconds = 0.0
        self.minutes: float | None = None
        torch.manual_seed(recipe.seed)
        self.model = LlamaForCausalLM(recipe.llama()).to(device)
        self.encoder = Encoder(Tokenizer.from_file(str(out / "tokenizer.json")))
        self.forward = Forward(self.model, recipe.cells, compiled=compiled)
        self.optimizers = optimizers(self.model, recipe)
        self.losses: list[float] = []

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters())

    def run(self, minutes: float | None = None) -> None:
        """Trains to the end of the recipe's steps, or for ``minutes`` of training in all."""
        self.minutes = minutes
        begun, saved, logged = time.monotonic() - self.seconds, time.monotonic(), (time.monotonic(), self.tokens)
        while (progress := self.progress(minutes)) < 1:
            batches = make_round(
                self.encoder, f"{self.recipe.seed}/{self.round}", progress, self.recipe.cells, self.recipe.window
            )
            for at in range(0, len(batches) - self.recipe.micro_batches + 1, self.recipe.micro_batches):
                self.train_step(batches[at : at + self.recipe.micro_batches], self.progress(minutes))
                self.seconds = self.agreed(time.monotonic() - begun)
                if self.rank == 0 and (now := time.monotonic()) - logged[0] > LOG_SECONDS:
                    self.log((self.tokens - logged[1]) / (now - logged[0]), self.progress(minutes))
                    logged = (now, self.tokens)
                if self.progress(minutes) >= 1:
                    break
            self.round += 1
            give_back_memory()
            if self.rank == 0 and time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()

    def progress(self, minutes: float | None) -> float:
        return min(1.0, self.seconds / 60 / minutes if minutes else self.step / self.recipe.steps)

    def train_step(self, batches: Sequence[Batch], progress: float) -> None:
        targets = sum(b.targets.numel() for b in batches)
        loss = torch.zeros((), device=self.device)
        for batch in batches[self.rank :: self.workers]:
            part = self.forward.loss(batch.to(self.device)) / targets
            torch.autograd.backward(part)
            loss += part.detach()
        self.share_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        rate = self.recipe.rate(self.step, progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["full_lr"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += sum(int((b.input_ids != PAD_ID).sum()) for b in batches)
        self.losses.append(float(loss) * self.workers)

    def share_gradients(self) -> None:
        """Sums the gradients of all workers; every worker then takes the same step."""
        if self.workers == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters()]
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        for p, part in zip(self.parameters(), torch.split(flat, [g.numel() for g in gradients]), strict=True):
            p.grad = part.view_as(p)

    def agreed(self, seconds: float) -> float:
        """The first worker's clock, so that all stop at the same step."""
        if self.workers > 1:
            clock = torch.tensor([seconds], dtype=torch.float64)
            distributed.broadcast(clock, 0)
            return clock.item()
        return seconds

    def log(self, speed: float, progress: float) -> None:
        loss = sum(self.losses) / max(1, len(self.losses))
        print(
            f"{progress:6.1%}  step {self.step}  {self.tokens / 1e6:.2f} M tokens  {speed:,.0f} tokens/s  "
            f"{self.seconds / 60:.1f} min  loss {loss:.4f}",
            flush=True,
        )
        self.losses.clear()

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        state = {
            "recipe": self.recipe.as_dict(),
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            **{name: getattr(self, name) for name in ("step", "round", "tokens", "seconds")},
        }
        part = self.out / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.out / "checkpoint.pt")

    def load(self) -> None:
        state = torch.load(self.out / "checkpoint.pt", weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in ("step", "round", "tokens", "seconds"):
            setattr(self, name, state[name])

    def export(self, folder: Path) -> None:
        """Writes the model as transformers reads it: bf16 safetensors, configuration, tokenizer, training.json."""
        model = LlamaForCausalLM(self.model.config)
        model.load_state_dict(self.model.state_dict())
        model.generation_config = generation_config()
        model.to(torch.bfloat16).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if folder != self.out:
                shutil.copy(self.out / name, folder / name)
        facts = {
            "recipe": {**self.recipe.as_dict(), "steps": self.step},
            "minutes": self.minutes,
            "parameters": sum(p.numel() for p in self.parameters()),
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds),
            "workers": self.workers,
            "device": self.device,
        }
        (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def give_back_memory() -> None:
    """Returns freed pages to the system, where the C library is glibc: buffers of ever other sizes otherwise leave
    holes in the heap, and it grows by gigabytes an hour."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def generation_config() -> GenerationConfig:
    """A cool default: the model's worth is in copying exactly."""
    return GenerationConfig(
        do_sample=True,
        temperature=0.2,
        top_p=0.9,
        top_k=0,
        eos_token_id=[END_ID, EOT_ID],
        pad_token_id=PAD_ID,
        max_new_tokens=512,
    )


def optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, lr=recipe.matrix_lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return [muon, adam]


def make_tokenizer(recipe: Recipe, out: Path) -> None:
    source = stream(f"{recipe.seed}/tokenizer", long_share=0.0)
    tokenizer = train_tokenizer((render(c) for c in islice(source, recipe.tokenizer_conversations)), recipe.vocab_size)
    save_tokenizer(tokenizer, out, recipe.window)


def work(
    rank: int, workers: int, recipe: Recipe, out: Path, device: str, minutes: float | None, compiled: bool
) -> None:
    """One process of a training."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    if workers > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group(
            "gloo", init_method=f"file://{out.resolve()}/rendezvous", rank=rank, world_size=workers
        )
    training = Training(recipe, out, device, rank=rank, workers=workers, compiled=compiled)
    if (out / "checkpoint.pt").exists():
        training.load()
    training.run(minutes)
    if rank == 0:
        training.save()
        training.export(out)
    if workers > 1:
        distributed.destroy_process_group()


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    minutes: float | None = None,
    workers: int = 1,
    compiled: bool = False,
) -> None:
    """Trains in ``out`` from its last checkpoint or from nothing, and leaves a model folder there.

    Raises:
        ValueError: the checkpoint in ``out`` was made by another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "rendezvous").unlink(missing_ok=True)
    written = out / "recipe.json"
    if written.exists() and json.loads(written.read_text()) != recipe.as_dict():
        raise ValueError(f"{out} holds a run of another recipe; choose another --out or remove it")
    if not written.exists():
        make_tokenizer(recipe, out)
        written.write_text(json.dumps(recipe.as_dict(), indent=1) + "\n")
    arguments = (workers, recipe, out, device, minutes, compiled)
    if workers == 1:
        work(0, *arguments)
    else:
        spawn(work, arguments, nprocs=workers)  # type: ignore[no-untyped-call]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatpager.demo.train", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=Recipe.steps, help="length of the training in steps")
    length.add_argument("--minutes", type=float, help="length of the training in minutes")
    parser.add_argument("--out", type=Path, default=Path("demo-model"), help="folder of checkpoint and model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: two on a CPU, one on a GPU")
    parser.add_argument("--eager", action="store_true", help="do not compile (needs no C++ compiler)")
    options = parser.parse_args(arguments)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    workers = options.workers or (1 if device == "cuda" else min(2, os.cpu_count() or 1))
    recipe = replace(Recipe(), seed=options.seed, steps=options.steps)
    train(recipe, options.out, device=device, minutes=options.minutes, workers=workers, compiled=not options.eager)


if __name__ == "__main__":
    main()
