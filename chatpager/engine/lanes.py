"""The prefill budget of one step, split between prompts with little left (the short lane) and long ones."""

from __future__ import annotations


class Lanes:
    """``budget`` tokens; a prompt with more than ``threshold`` left is long; ``share`` of the budget is the long lane's
    while both lanes have somebody."""

    def __init__(self, budget: int, *, threshold: int, share: float) -> None:
        self.left = self._long_left = self._short_left = budget
        self._threshold = threshold
        self._share = share
        self.cut = False
        """Whether somebody would have got more, had there been room."""

    def is_long(self, remaining: int) -> bool:
        return remaining > self._threshold

    def divide(self, *, long_runs: bool, short_comes: bool) -> None:
        """Keep a share for each lane. Nothing is kept for a long prompt that may not be admitted at all, and the last
        token is nobody's alone."""
        share = max(1, int(self.left * self._share))
        if short_comes:
            self._long_left = min(self.left, share)
        if long_runs and self.left > 1:
            self._short_left = self.left - share

    def chunk(self, remaining: int) -> int:
        """Tokens that a prompt with ``remaining`` tokens to go may compute now."""
        count = min(remaining, self.left, self._long_left if self.is_long(remaining) else self._short_left)
        self.cut = self.cut or count < remaining
        return count

    def take(self, remaining: int, count: int) -> None:
        self.left -= count
        if self.is_long(remaining):
            self._long_left -= count
        else:
            self._short_left -= count
