"""Conversations that run: here asyncio begins, and engine and store meet (floor 3).

``hub.py`` is the face: it begins turns, follows them, ends them. ``engine_host.py`` is the seam to the engine,
``stream.py`` is what a turn's readers follow, ``turn.py`` one turn's life as a table, ``receipt.py`` the account of its
prefix.
"""
