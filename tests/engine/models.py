"""Tiny random models of every served architecture, and what transformers itself generates with them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

VOCAB = 211
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LOCAL_AND_GLOBAL = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}


def configs():
    """Architecture -> a configuration in which each of its peculiarities is at work."""
    t = transformers
    return {
        "llama": t.LlamaConfig(**SHAPE, head_dim=16, rope_parameters=llama3_rope()),
        "qwen2": t.Qwen2Config(**SHAPE, use_sliding_window=True, max_window_layers=1, sliding_window=12),
        "qwen3": t.Qwen3Config(**SHAPE, head_dim=16),
        "qwen3_moe": t.Qwen3MoeConfig(
            **SHAPE, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1
        ),
        "mistral": t.MistralConfig(**SHAPE, head_dim=16, sliding_window=12),
        "phi3": t.Phi3Config(**SHAPE, sliding_window=20),
        "olmo2": t.Olmo2Config(**SHAPE),
        "granite": t.GraniteConfig(
            **SHAPE, attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0
        ),
        "smollm3": t.SmolLM3Config(**SHAPE, no_rope_layers=[1, 0]),
        "gemma2": t.Gemma2Config(**SHAPE, **LOCAL_AND_GLOBAL, head_dim=16, attn_logit_softcapping=20.0),
        "gemma3_text": t.Gemma3TextConfig(**SHAPE, **LOCAL_AND_GLOBAL, head_dim=16, query_pre_attn_scalar=16),
        "gpt_oss": t.GptOssConfig(**SHAPE, **LOCAL_AND_GLOBAL, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
    }


def llama3_rope():
    return {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }


def save(architecture: str, folder: Path, **changes) -> Path:
    """Write the architecture's tiny model; weights are spread wide so that its answers vary."""
    torch.manual_seed(sum(map(ord, architecture)))
    config = configs()[architecture]
    for name, value in changes.items():
        setattr(config, name, value)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.15)
            elif "sinks" in name:
                weight.normal_(0, 1.0)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Case:
    """A prompt and what ``generate`` says after it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def whole(self) -> tuple[int, ...]:
        return (*self.prompt, *self.answer)


class Reference:
    """transformers' own greedy answers, in float32 on the CPU with its eager attention."""

    least_margin = 1e-4
    """Between two logits, of their spread: what is decided by less is drawn again."""

    def __init__(self, folder: Path, new_tokens: int = 12) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.new_tokens = new_tokens

    @torch.no_grad()
    def answer(self, prompt) -> tuple[tuple[int, ...], float]:
        """The answer, and by how much its closest choice was decided (in logits' standard deviations)."""
        out = self.model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=self.new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        logits = torch.stack(out.logits)[:, 0]
        best = logits.topk(2, -1).values
        margin = ((best[:, 0] - best[:, 1]) / logits.std(-1)).min().item()
        return tuple(out.sequences[0, len(prompt) :].tolist()), margin

    def sessions(self, seed: int, count: int, turns: int) -> list[list[Case]]:
        """Conversations of ``turns`` prompts, each of which continues the one before and its answer."""
        generator = torch.Generator().manual_seed(seed)
        system = _ids(generator, 18, 19)
        sessions = []
        for i in range(count):
            history: tuple[int, ...] = system if i % 2 else ()
            session = []
            for _ in range(turns):
                session.append(self._case(history, generator))
                history = session[-1].whole
            sessions.append(session)
        return sessions

    def otherwise(self, seed: int, sessions: list[list[Case]]) -> list[Case]:
        """For each session another second turn."""
        generator = torch.Generator().manual_seed(seed)
        return [self._case(session[0].whole, generator) for session in sessions]

    def _case(self, history: tuple[int, ...], generator: torch.Generator) -> Case:
        """A prompt whose answer hangs on rounding decides nothing about the cache, and is drawn again."""
        while True:
            prompt = (*history, *_ids(generator, 1, 30))
            answer, margin = self.answer(prompt)
            if margin > self.least_margin:
                return Case(prompt, answer)


def _ids(generator: torch.Generator, low: int, high: int) -> tuple[int, ...]:
    length = int(torch.randint(low, high, (1,), generator=generator))
    return tuple(torch.randint(2, VOCAB, (length,), generator=generator).tolist())


def write_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))
