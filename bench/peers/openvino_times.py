"""Times OpenVINO GenAI on a GGUF file: random token ids, greedy, no prefix cache, end of text ignored.

    openvino_times.py MODEL THREADS KV TEST...      KV: f16 u8 u4 evict kvcrush; TEST: prefill:N decode:N batch:N

prints one line per test: NAME N tokens/s, and for decode also that of its prompt, as prefill. With one thread CPU time of the process, else wall time. Steps are timed one by one and
the median of 16 counts: the difference of two calls, each with its prompt, is mostly noise (8 prompts take a hundred times as long as a step). Run by bench/peers.sh.
"""
import statistics
import sys
import time

import numpy as np
import openvino as ov
import openvino_genai as genai

STEPS, SEQS = 16, 8
model, threads, kv, tests = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
now = time.process_time if threads == 1 else time.perf_counter

scheduler = genai.SchedulerConfig()
scheduler.enable_prefix_caching = False
scheduler.cache_size = 2  # GB, enough for every test
scheduler.max_num_batched_tokens = 1 << 20
settings = {"INFERENCE_NUM_THREADS": threads}
if kv in ("evict", "kvcrush"):
    # The size of OpenVINO's own examples: 32 first, 128 last and 512 chosen tokens; KVCrush keeps a quarter of the chosen blocks.
    crush = genai.KVCrushConfig(4) if kv == "kvcrush" else None
    scheduler.use_cache_eviction = True
    scheduler.cache_eviction_config = genai.CacheEvictionConfig(32, 128, 672, genai.AggregationMode.NORM_SUM, kvcrush_config=crush)
else:
    settings["KV_CACHE_PRECISION"] = kv
pipe = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings)
rng = np.random.default_rng(1)


def seconds(rows, n, n_new):
    """Of each step: the first one reads all prompts and makes their first tokens."""
    config = genai.GenerationConfig()
    config.max_new_tokens = n_new
    config.ignore_eos = True
    config.do_sample = False
    prompts = rng.integers(100, 49000, (rows, 1, n), dtype=np.int64)
    handles = [pipe.add_request(i, ov.Tensor(prompt), config) for i, prompt in enumerate(prompts)]  # a request ends with its handle
    steps = []
    while pipe.has_non_finished_requests():
        start = now()
        pipe.step()
        steps.append(now() - start)
    assert all(h.get_status() == genai.GenerationStatus.FINISHED for h in handles), "OpenVINO dropped a request"
    return steps


seconds(1, 16, 2)
for test in tests:
    name, n = test.split(":")
    n = int(n)
    rows = SEQS if name == "batch" else 1
    first, *steps = seconds(rows, n, 1 if name == "prefill" else 1 + STEPS)
    if name == "prefill" or name == "decode" and n > 1:
        print(f"prefill {n} {n / first:.2f}", flush=True)
    if name != "prefill":
        print(f"{name} {n} {rows / statistics.median(steps):.2f}", flush=True)
