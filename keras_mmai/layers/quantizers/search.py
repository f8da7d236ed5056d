"""The nearest code, and how codes are used.

With any m, argmin_k |z - e_k|^2 = argmax_k (z - m).(e_k - m) - |e_k - m|^2 / 2: one matrix product, without |z|^2. With
m the mean code the products stay small where latents and codes share an offset, which keeps float32 exact.
"""

from keras import ops

SCORE_BYTES = 16 * 2**20
DYNAMIC_ROWS = 256
CODES_AT_ONCE = 2**14


def nearest_code(z, codebook):
    """Index of the nearest row of `codebook` (k, d) for each row of `z` (n, d): int32 (n,), the first among equals.

    Rows, and beyond 16,384 also codes, are taken in chunks, so that no more than 16 MiB of scores exist at once.
    """
    codebook, num_codes = ops.cast(codebook, "float32"), codebook.shape[0]
    centre = ops.mean(codebook, axis=0)
    codes = codebook - centre
    # the bias is one more column, so that the scores are written once
    codes = ops.concatenate([codes, -0.5 * ops.sum(ops.square(codes), axis=-1, keepdims=True)], axis=-1)
    z = ops.cast(z, "float32") - centre
    z = ops.concatenate([z, ops.ones_like(z[:, :1])], axis=-1)
    return in_chunks(lambda rows: best_code(rows, codes), z, SCORE_BYTES // (4 * min(num_codes, CODES_AT_ONCE)))


def best_code(rows, codes):
    """argmax_k rows . codes_k, with the codes in chunks if they are many."""
    num_codes, dim = codes.shape
    if num_codes <= CODES_AT_ONCE:
        return ops.cast(ops.argmax(ops.matmul(rows, ops.transpose(codes)), axis=-1), "int32")
    num_chunks = -(-num_codes // CODES_AT_ONCE)
    # codes that fill up the last chunk repeat the last one: of equals the first is taken
    padded = ops.take(codes, ops.minimum(ops.arange(num_chunks * CODES_AT_ONCE), num_codes - 1), axis=0)

    def step(best, chunk):
        value, index = best
        start, codes = chunk
        scores = ops.matmul(rows, ops.transpose(codes))
        better = ops.max(scores, axis=-1)
        found = start + ops.cast(ops.argmax(scores, axis=-1), "int32")
        return (ops.maximum(value, better), ops.where(better > value, found, index)), None

    first = (ops.full_like(rows[:, 0], -float("inf")), ops.zeros_like(rows[:, 0], dtype="int32"))
    starts = CODES_AT_ONCE * ops.arange(num_chunks, dtype="int32")
    (_, index), _ = ops.scan(step, first, (starts, ops.reshape(padded, (num_chunks, CODES_AT_ONCE, dim))))
    return index


def in_chunks(function, rows, chunk):
    """`function` of (m, d) to (m,), applied to (n, d) in chunks of at most `chunk` rows."""
    chunk = max(1, chunk)
    if rows.shape[0] is None:
        chunk = min(chunk, DYNAMIC_ROWS)  # the last chunk is padded: a small one wastes little
    elif rows.shape[0] <= chunk:
        return function(rows)
    n, dim = ops.shape(rows)[0], rows.shape[1]
    num_chunks = (n + chunk - 1) // chunk
    padded = ops.pad(rows, ((0, num_chunks * chunk - n), (0, 0)))
    return ops.reshape(ops.map(function, ops.reshape(padded, (num_chunks, chunk, dim))), (-1,))[:n]


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
