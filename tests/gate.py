"""Holds the engine between two steps for as long as a test likes."""

import threading

DEADLINE = 120.0
"""Seconds after which what a test waits for has failed: only who fails waits them, and a machine may be busy."""


class Gate:
    """Between the engine and its model: every step passes it."""

    def __init__(self):
        self._changed = threading.Condition()
        self._left = None
        self.passed = 0
        self.waited_for = False
        """A step waits here."""

    def hold(self, after=0):
        """Let ``after`` more steps pass, and no further."""
        with self._changed:
            self._left = after
            self.waited_for = self.waited_for and after == 0
            self._changed.notify_all()

    def open(self):
        self.hold(None)

    def go_through(self):
        with self._changed:
            self.waited_for = self._left == 0
            assert self._changed.wait_for(lambda: self._left != 0, DEADLINE), "the gate was never opened"
            self.waited_for = False
            self._left = None if self._left is None else self._left - 1
            self.passed += 1
