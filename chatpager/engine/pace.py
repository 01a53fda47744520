"""How many tokens of prompts a step may compute, so that nobody waits too long for the next one.

While a step runs no other stream gets a token, no cancel is heard and no progress is told. What a token of a prompt
costs is 10 us on one machine and 3 ms on another, so a number of tokens that suits both does not exist: 8,192 of them
held every stream up for 25 s on two cores (151 million parameters). The bound is a time, and the tokens follow from
what the last steps took. As Sarathi-Serve's token budget (Agrawal et al., 2024), but found while serving.
"""

from __future__ import annotations

FIRST, LEAST = 512, 128
"""Tokens before any step was timed; and however slow steps are, so that prompts go on beside any number of decodes."""
FASTEST = 2.0
"""Times the tokens change from one step to the next, at the most: one step may have been slow by chance."""
ALONE = 4.0
"""Times the bound where nobody decodes: only cancels and newcomers wait then, and larger steps are cheaper."""


class Pace:
    """``seconds`` is how long a step with prompts may take, 0: as long as it wants; ``most`` what a step may hold."""

    def __init__(self, seconds: float, most: int) -> None:
        self._most = most
        self._rooms = {True: _Room(seconds, most), False: _Room(ALONE * seconds, most)} if seconds else {}

    def room(self, decoding: bool) -> int:
        """For the prompts of the coming step; ``decoding``: somebody waits for a next token."""
        return self._rooms[decoding].tokens if self._rooms else self._most

    def took(self, decoding: bool, prompt_tokens: int, seconds: float, *, full: bool) -> None:
        """A step is over that had so many tokens of prompts; ``full``: it would have had more, had there been room."""
        if self._rooms and prompt_tokens:
            self._rooms[decoding].took(seconds, full=full)


class _Room:
    def __init__(self, seconds: float, most: int) -> None:
        self._seconds, self._most = seconds, most
        self.tokens = min(FIRST, most)

    def took(self, seconds: float, *, full: bool) -> None:
        """More room where a step that was full was quick, less where one was slow."""
        change = self._seconds / seconds if seconds > 0 else FASTEST
        if change >= 1 and not full:
            return
        wished = self.tokens * min(FASTEST, max(1 / FASTEST, change))
        self.tokens = max(min(LEAST, self._most), min(self._most, int(wished)))
