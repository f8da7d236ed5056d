"""The nearest code, and how codes are used.

With any m, argmin_k |z - e_k|^2 = argmax_k (z - m).(e_k - m) - |e_k - m|^2 / 2: one matrix product, without |z|^2. With
m the mean code the products stay small where latents and codes share an offset, which keeps float32 exact.
"""

from keras import ops

from keras_mmai.noise import gumbel

SCORE_BYTES = 4 * 2**20  # what a processor's cache holds: larger chunks are slower
DYNAMIC_ROWS = 256
CODES_AT_ONCE = 2**14
BLOCK = 128


def nearest_code(z, codebook):
    """Index of the nearest row of `codebook` (k, d) for each row of `z` (n, d): int32 (n,), the first among equals.

    Rows, and beyond 16,384 also codes, are taken in chunks, so that no more than 4 MiB of scores exist at once.
    """
    codebook = ops.cast(codebook, "float32")
    centre = ops.mean(codebook, axis=0)
    codes = codebook - centre
    # the bias is one more channel, so that the scores are written once
    codes = ops.concatenate([codes, -0.5 * ops.sum(ops.square(codes), axis=-1, keepdims=True)], axis=-1)
    codes = fill_up(codes, BLOCK if codes.shape[0] <= CODES_AT_ONCE else CODES_AT_ONCE)
    z = ops.cast(z, "float32") - centre
    z = ops.concatenate([z, ops.ones_like(z[:, :1])], axis=-1)
    search = best_code if codes.shape[0] <= CODES_AT_ONCE else best_of_many_codes
    chunk = SCORE_BYTES // (4 * min(codes.shape[0], CODES_AT_ONCE))
    return in_chunks(lambda rows: search(rows, codes)[1], chunk, z)


def draw_code(z, codebook, seed, temperature):
    """Index of a row of `codebook` (k, d) for each of `z` (n, d), by chance: p(k) ~ exp(-|z - e_k|^2 / temperature).

    `seed` int32 (n, 2) to int32 (n,). By the maximum of Gumbel numbers, in chunks of rows.
    """
    codebook, z = (ops.cast(x, "float32") for x in (codebook, z))
    centre = ops.mean(codebook, axis=0)
    codes = codebook - centre

    def draw(rows, seed):
        score = 2.0 * ops.matmul(rows - centre, ops.transpose(codes)) - ops.sum(ops.square(codes), axis=-1)
        return ops.cast(ops.argmax(score / temperature + gumbel(seed, (codes.shape[0],)), axis=-1), "int32")

    return in_chunks(draw, SCORE_BYTES // (4 * codes.shape[0]), z, seed)


def fill_up(codes, multiple):
    """Adds codes that are never the nearest until there is a multiple of them: (k, d + 1) to (k', d + 1)."""
    missing = -codes.shape[0] % multiple
    never = ops.concatenate([ops.zeros((missing, codes.shape[1] - 1)), ops.full((missing, 1), -1e38)], axis=1)
    return ops.concatenate([codes, never], axis=0)


def best_code(rows, codes):
    """Largest score of each row and its index: max_k and argmax_k of rows (n, d) . codes (k, d).

    The maximum of each block of 128 is fast everywhere; only the best block is searched for the place of it. And so is
    the product with the codes first, whose other order is up to three times slower on PyTorch.
    """
    scores = ops.matmul(codes, ops.transpose(rows))
    scores = ops.reshape(scores, (codes.shape[0] // BLOCK, BLOCK, ops.shape(rows)[0]))
    highest = ops.max(scores, axis=1)
    block = ops.argmax(highest, axis=0)
    within = ops.take_along_axis(scores, block[None, None], axis=0)[0]
    return ops.max(highest, axis=0), ops.cast(block * BLOCK + ops.argmax(within, axis=0), "int32")


def best_of_many_codes(rows, codes):
    """`best_code`, with the codes in chunks."""

    def step(best, chunk):
        start, codes = chunk
        score, index = best_code(rows, codes)
        better = score > best[0]
        return (ops.where(better, score, best[0]), ops.where(better, start + index, best[1])), None

    first = (ops.full_like(rows[:, 0], -float("inf")), ops.zeros_like(rows[:, 0], dtype="int32"))
    num_chunks = codes.shape[0] // CODES_AT_ONCE
    starts = CODES_AT_ONCE * ops.arange(num_chunks, dtype="int32")
    return ops.scan(step, first, (starts, ops.reshape(codes, (num_chunks, CODES_AT_ONCE, -1))))[0]


def in_chunks(function, chunk, *arrays):
    """`function` of arrays (m, d) to int32 (m,), applied to arrays (n, d) in chunks of at most `chunk` rows."""
    chunk, rows = max(1, chunk), arrays[0]
    if rows.shape[0] == 0:
        return ops.zeros((0,), dtype="int32")
    if rows.shape[0] is None:
        chunk = min(chunk, DYNAMIC_ROWS)  # the last chunk is padded: a small one wastes little
    elif rows.shape[0] <= chunk:
        return function(*arrays)
    n = ops.shape(rows)[0]
    num_chunks = (n + chunk - 1) // chunk
    padded = [ops.pad(x, ((0, num_chunks * chunk - n), (0, 0))) for x in arrays]
    chunks = [ops.reshape(x, (num_chunks, chunk, x.shape[1])) for x in padded]
    places = ops.reshape(ops.arange(num_chunks), (num_chunks, 1, 1))

    def step(i, found):
        return ops.scatter_update(found, places[i], function(*[x[i] for x in chunks])[None])

    # into one tensor: many small ones that are kept would cut up PyTorch's memory, where the next scores find no room
    found = ops.fori_loop(0, num_chunks, step, ops.zeros((num_chunks, chunk), dtype="int32"))
    return ops.reshape(found, (-1,))[:n]


def count_codes(codes, valid, num_codes):
    """How often each of `num_codes` codes is among the valid ones of `codes` (n,): float32 (num_codes,)."""
    buckets = ops.where(valid, codes, num_codes)  # what is not valid goes to a bucket that is thrown away
    return ops.segment_sum(ops.cast(valid, "float32"), buckets, num_segments=num_codes + 1)[:num_codes]


def sum_by_code(z, codes, valid, num_codes):
    """The sum of the valid rows of `z` (n, d) of each code: (num_codes, d)."""
    return ops.segment_sum(z, ops.where(valid, codes, num_codes), num_segments=num_codes + 1)[:num_codes]


def perplexity(counts):
    """exp of the entropy of the distribution in proportion to `counts` (..., k): (...,), 1 to k, 0 without a count."""
    total = ops.sum(counts, axis=-1, keepdims=True)
    p = counts / ops.maximum(total, 1e-12)
    entropy = -ops.sum(p * ops.log(p + 1e-20), axis=-1)
    return ops.where(total[..., 0] > 0, ops.exp(entropy), 0.0)
