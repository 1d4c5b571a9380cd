#!/usr/bin/env python3
"""Golden blocks of the quantised weight types: bytes, and the values that the Python package gguf decodes them to.

    pip install gguf numpy
    python3 tests/golden/make_wtype_blocks.py > tests/golden/wtype_blocks.txt

Each line: type, the block in hex, its values as little-endian f32 in hex. Two blocks a type: one quantised by the package where it
can, else random codes under small steps; one of random codes under a negative step."""
import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

STEPS = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
rng = np.random.default_rng(1)
for t, at in STEPS.items():
    n, n_bytes = GGML_QUANT_SIZES[t]
    random = rng.integers(0, 256, (2, n_bytes), dtype=np.uint8)
    for i, step in enumerate((0.0123, -0.0371)):
        for k, a in enumerate(at):
            random[i, a:a + 2] = np.frombuffer(np.float16(step * (1 + k)).tobytes(), np.uint8)
    if n == 32:
        random[0] = quantize(rng.standard_normal((1, n), dtype=np.float32), t)[0]
    for block in random:
        values = dequantize(block[None], t).astype("<f4")
        print(t.name, block.tobytes().hex(), values.tobytes().hex())
