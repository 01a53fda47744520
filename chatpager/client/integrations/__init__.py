"""Agent frameworks on chatpager: agents that take turns share what was computed. Each module needs its framework, which
is not installed with chatpager, and knows nothing of the others."""
