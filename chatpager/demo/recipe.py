"""The built-in model's shape and how it is trained: one record, written beside the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import LlamaConfig

from chatpager.demo.tokenizer import END_ID, EOT_ID, PAD_ID, START_ID


@dataclass(frozen=True)
class Recipe:
    """Few heads and few layers, because attention's backward pass is the dearest part on a CPU; most of the parameters
    are in the feed-forward matrices, where the matrix unit is fast."""

    vocab_size: int = 3072
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    feed_forward: int = 768
    window: int = 4096
    rope_theta: float = 100000.0
    cells: int = 4096
    """Tokens of one micro-batch, padding included."""
    micro_batches: int = 2
    """Micro-batches of one step; workers share them."""
    tokenizer_conversations: int = 12000
    steps: int = 34412
    warmup: int = 60
    """Steps over which the learning rate rises."""
    decay: float = 0.35
    """Last share of the training over which it falls to nothing."""
    matrix_lr: float = 0.004
    other_lr: float = 0.004
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def llama(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.window,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=True,
            pad_token_id=PAD_ID,
            bos_token_id=START_ID,
            eos_token_id=[END_ID, EOT_ID],
        )

    def rate(self, step: int, progress: float) -> float:
        """Share of the full learning rate: a short rise, a plateau, a straight fall to zero."""
        return min(1.0, (step + 1) / self.warmup, (1.0 - progress) / self.decay)
