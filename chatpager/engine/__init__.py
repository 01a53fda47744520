"""The engine: synchronous, owned by one thread; no asyncio, no SQL, no sockets (floor 2).

``engine.py`` is the face (`add`, `cancel`, `step`), ``messages.py`` what crosses it, ``llm.py`` the offline face.
Below them: ``scheduler.py`` decides, ``model_runner.py`` computes, ``prefix_cache.py`` and ``block_pool.py`` remember.
"""
