"""Tensors in pages: attention over them, writing into them, copying them. It knows no sequence and no session.

- ``paged_attention.forward``: attention of new tokens over keys and values in pages, decode and extend
- ``store_kv``: write new keys and values into their slots
- ``copy_blocks``: copy blocks in every layer, before a shared one is written
- ``Workspace``: scratch memory that a caller reuses from call to call

On the CPU it is numba where that serves, else torch; on a GPU it is Triton. ``reference`` is the definition that all of
them are tested against.
"""

from chatpager.kernels import paged_attention
from chatpager.kernels.store_kv import copy_blocks, store_kv
from chatpager.kernels.workspace import Workspace

__all__ = ["Workspace", "copy_blocks", "paged_attention", "store_kv"]
