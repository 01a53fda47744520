"""The wires: OpenAI's Responses over WebSocket, SSE and plain HTTP, Chat Completions, Conversations (floor 4).

``wire.py`` has the objects, ``requests.py`` reads what clients send, ``encode_*.py`` folds a turn's log into what they
are sent, ``protocol.py`` is the WebSocket's protocol without a socket. ``app.py`` and the ``routes_*`` put them on
aiohttp.
"""
