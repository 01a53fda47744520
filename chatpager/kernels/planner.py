# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Which piece of which context a program of decode takes, decided on the device, once for all layers of a step.

The host knows no length: a graph is captured once and replayed as contexts grow. Only the list's number of places is
fixed, by the rows and by how many pieces the device can use.
"""

import triton
import triton.language as tl

ITEM_WORDS = tl.constexpr(4)
"""A place of the list: row (-1: nobody's), first token, one past the last token, nothing. A multiple of 16 bytes, so
that it lies in one sector."""


@triton.jit(
    do_not_specialize=["batch", "window", "least", "wanted", "places"],
    do_not_specialize_on_alignment=["p_context", "p_shared", "p_items", "p_rows"],
)
def plan_kernel(
    p_items,
    p_rows,
    p_context,
    p_shared,
    batch,
    window,
    least,
    wanted,
    places,
    HAS_WINDOW: tl.constexpr,
    SHARED: tl.constexpr,
    TILE: tl.constexpr,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Grid (batch). Every program counts all rows' pieces, and writes down its own row's: to the list, and to
    ``p_rows`` [batch, 2] the place of the first and their number. BATCH is a power of two, at least batch.

    A piece has about as many tokens as all spans together divided by ``wanted``, but ``least`` at least, so that one
    long row among short ones is cut as finely as its share of the work asks for. Rows are cut into equal pieces of
    whole tiles; none too small to be worth its merge is left over. ``places`` must be ``batch + wanted``: a row has at
    most one piece more than its share of ``wanted``. SHARED: the first ``p_shared[row]`` tokens are left to
    ``prefix_kernel``.
    """
    i_row = tl.program_id(0)
    o_r = tl.arange(0, BATCH)
    o_x = tl.arange(0, WIDTH)
    b_context = tl.load(p_context + o_r, mask=o_r < batch, other=0)
    b_first = tl.zeros([BATCH], tl.int32)
    if HAS_WINDOW:
        b_first = tl.maximum(b_context - window, 0) // TILE * TILE
    if SHARED:
        b_first = tl.load(p_shared + o_r, mask=o_r < batch, other=0)
    b_span = b_context - b_first
    chunk = tl.maximum(least, tl.cdiv(tl.sum(b_span, 0), wanted))
    b_count = tl.maximum((b_span + chunk // 2) // chunk, 1)
    b_piece = tl.maximum(tl.cdiv(tl.cdiv(b_span, b_count), TILE) * TILE, TILE)
    b_count = tl.where(o_r < batch, tl.maximum(tl.cdiv(b_span, b_piece), 1), 0)

    m_own = o_r == i_row
    i_place = tl.sum(tl.where(o_r < i_row, b_count, 0), 0)
    n_pieces = tl.sum(tl.where(m_own, b_count, 0), 0)
    piece = tl.sum(tl.where(m_own, b_piece, 0), 0)
    i_first = tl.sum(tl.where(m_own, b_first, 0), 0)
    context_len = tl.sum(tl.where(m_own, b_context, 0), 0)
    tl.store(p_rows + 2 * i_row, i_place)
    tl.store(p_rows + 2 * i_row + 1, n_pieces)
    for i in range(0, n_pieces, WIDTH):
        o_p = i + o_x
        m_p = o_p < n_pieces
        p_place = p_items + (i_place + o_p) * ITEM_WORDS
        i_start = i_first + o_p * piece
        tl.store(p_place, tl.zeros([WIDTH], tl.int32) + i_row, mask=m_p)
        tl.store(p_place + 1, i_start, mask=m_p)
        tl.store(p_place + 2, tl.minimum(i_start + piece, context_len), mask=m_p)
    if i_row == batch - 1:
        for i in range(i_place + n_pieces, places, WIDTH):
            tl.store(p_items + (i + o_x) * ITEM_WORDS, tl.full([WIDTH], -1, tl.int32), mask=i + o_x < places)
