#!/usr/bin/env python3
"""Tiny random models of each architecture with golden log-probabilities from transformers, and those of a gemma3 GGUF.

    pip install torch transformers gguf numpy llama-cpp-python
    python3 tests/golden/make_arch.py tiny tests/golden/arch                       # NAME.gguf, NAME.txt
    python3 tests/golden/make_arch.py dims FOLDER        # not committed: every architecture with head dimensions 64 to 256 and
                                                         # groups of 1 to 9; build/release/tests/golden/test_arch FOLDER/*.gguf
    python3 tests/golden/make_arch.py gemma3 gemma-3-270m-q4_k_m.gguf tests/golden/gemma3_270m.txt

NAME.txt: "kvlab-golden-arch 1 N_TOKENS TOP N_POSITIONS", the token ids, then one line per position: position and the TOP most likely
next tokens as id:logprob. Weights are rounded to f16 first, so file and transformers hold the same values; fp32, eager attention.
"""
import sys

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter, dequantize
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

TOP, N, VOCAB = 8, 64, 260
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm"}
GEMMA = dict(NAMES, **{"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                       "post_feedforward_layernorm": "post_ffw_norm"})
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
BASE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            max_position_embeddings=256, rms_norm_eps=1e-6, attn_implementation="eager", bos_token_id=0, eos_token_id=0, pad_token_id=0)


def default(theta):
    return {"rope_type": "default", "rope_theta": theta}


def cases(**change):
    c = dict(BASE, num_hidden_layers=2)
    c.update(change)
    yield "llama_linear", "llama", LlamaForCausalLM(LlamaConfig(**c, tie_word_embeddings=False, rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}))
    yield "llama_3", "llama", LlamaForCausalLM(LlamaConfig(**dict(c, num_key_value_heads=change.get("num_key_value_heads", 1)), tie_word_embeddings=True,
                                                           rope_parameters=LLAMA3))
    yield "qwen2", "qwen2", Qwen2ForCausalLM(Qwen2Config(**dict(c, hidden_size=change.get("hidden_size", 64)), tie_word_embeddings=True,
                                                         rope_parameters=default(1e6)))
    yield "qwen3", "qwen3", Qwen3ForCausalLM(Qwen3Config(**c, tie_word_embeddings=True, rope_parameters=default(1e6)))
    yield "gemma3", "gemma3", Gemma3ForCausalLM(Gemma3TextConfig(
        **dict(c, num_hidden_layers=7), sliding_window=12, query_pre_attn_scalar=c["head_dim"], layer_types=["sliding_attention"] * 5 +
        ["full_attention", "sliding_attention"], rope_parameters={"full_attention": {
            "rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}, "sliding_attention": default(1e4)}))
    yield "mistral", "llama", MistralForCausalLM(MistralConfig(**c, tie_word_embeddings=False, sliding_window=12,
                                                               rope_parameters=default(1e4)))


DIMS = [(64, 9, 3), (80, 4, 4), (96, 8, 1), (128, 7, 1), (256, 4, 2), (64, 10, 2), (128, 12, 2), (80, 4, 1), (64, 9, 1)]


def dims_cases():
    for d, heads, kv in DIMS:
        for name, arch, m in cases(head_dim=d, num_attention_heads=heads, num_key_value_heads=kv, hidden_size=8 * heads):
            yield f"{name}_{d}_{heads}_{kv}", arch, m


def randomise(m, seed):
    g = torch.Generator().manual_seed(seed)
    gemma = "Gemma" in type(m).__name__
    with torch.no_grad():
        for name, p in m.named_parameters():
            x = torch.randn(p.shape, generator=g)
            if "norm" in name:
                x = 0.1 * x + (0 if gemma else 1)
            elif name.endswith("bias"):
                x = 0.5 * x
            elif "embed" in name or "lm_head" in name:
                x = 2.5 * x / p.shape[1] ** 0.5
            else:
                x = 1.4 * x / p.shape[1] ** 0.5
            p.copy_(x.half().float())
    m.tie_weights()
    return m.float().eval()


def permute(w, n_head):
    """As llama.cpp's converter: RoPE on adjacent pairs."""
    return w.reshape(n_head, 2, w.shape[0] // n_head // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def llama3_factors(d, r):
    freq = 1.0 / r["rope_theta"] ** (np.arange(0, d, 2, dtype=np.float64) / d)
    out = []
    low, high, n = r["low_freq_factor"], r["high_freq_factor"], r["original_max_position_embeddings"]
    for f in freq:
        wave = 2 * np.pi / f
        smooth = (n / wave - low) / (high - low)
        out.append(1.0 if wave < n / high else r["factor"] if wave > n / low else 1 / ((1 - smooth) / r["factor"] + smooth))
    return np.array(out, np.float32)


def add_vocabulary(w):
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    chars, extra = [], 0
    for b in range(256):
        chars.append(chr(b) if b in printable else chr(256 + extra))
        extra += b not in printable
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + chars + ["ab"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3] * 3 + [1] * 257)
    w.add_token_merges(["a b"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)


def write_gguf(path, arch, m):
    c = m.config
    w = GGUFWriter(path, arch)
    w.add_name("tiny random " + arch)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    r = c.rope_parameters.get("full_attention", c.rope_parameters)
    w.add_rope_freq_base(r["rope_theta"])
    if r["rope_type"] == "linear":
        w.add_string(arch + ".rope.scaling.type", "linear")
        w.add_float32(arch + ".rope.scaling.factor", r["factor"])
    if getattr(c, "sliding_window", None):
        w.add_sliding_window(c.sliding_window)
    add_vocabulary(w)
    if r["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(c.head_dim, r))
    for name, p in m.state_dict().items():
        x = p.numpy()
        if name == "lm_head.weight":
            if not c.tie_word_embeddings:
                w.add_tensor("output.weight", x.astype(np.float16))
            continue
        if "norm" in name and arch == "gemma3":
            x = 1 + x
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            kind, suffix = rest.rsplit(".", 1)
            kind = (GEMMA if arch == "gemma3" else NAMES)[kind]
            if arch == "llama" and kind in ("attn_q", "attn_k"):
                x = permute(x, c.num_attention_heads if kind == "attn_q" else c.num_key_value_heads)
            name = f"blk.{layer}.{kind}.{suffix}"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        w.add_tensor(name, np.ascontiguousarray(x.astype(np.float32 if x.ndim == 1 else np.float16)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_golden(path, m, ids, positions):
    with torch.no_grad():
        h = m.model(torch.tensor([ids])).last_hidden_state[0]
        lp = torch.log_softmax(m.lm_head(h[positions]).double(), -1)
    with open(path, "w") as f:
        f.write(f"kvlab-golden-arch 1 {len(ids)} {TOP} {len(positions)}\n" + " ".join(map(str, ids)) + "\n")
        for pos, row in zip(positions, lp):
            v, i = torch.topk(row, TOP)
            f.write(f"{pos} " + " ".join(f"{int(t)}:{float(x):.6f}" for x, t in zip(v, i)) + "\n")
    print(path, "top log-probabilities", [round(float(r.max()), 2) for r in lp[::8]], file=sys.stderr)


def load_gemma3(path):
    r = GGUFReader(path)
    field = lambda k: r.fields["gemma3." + k].contents()
    d, n_layers = field("attention.key_length"), field("block_count")
    vocab = next(t for t in r.tensors if t.name == "token_embd.weight").shape[1].item()
    c = Gemma3TextConfig(vocab_size=vocab, hidden_size=field("embedding_length"), intermediate_size=field("feed_forward_length"),
                         num_hidden_layers=n_layers, num_attention_heads=field("attention.head_count"),
                         num_key_value_heads=field("attention.head_count_kv"), head_dim=d, query_pre_attn_scalar=d,
                         sliding_window=field("attention.sliding_window"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
                         layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(n_layers)],
                         rope_parameters={"full_attention": default(field("rope.freq_base")), "sliding_attention": default(1e4)},
                         attn_implementation="eager")
    back = {v: k for k, v in GEMMA.items()}
    w = {}
    for t in r.tensors:
        x = dequantize(t.data, t.tensor_type).astype(np.float32)
        if "norm" in t.name:
            x = x - 1
        if t.name == "token_embd.weight":
            w["model.embed_tokens.weight"] = w["lm_head.weight"] = x
        elif t.name == "output_norm.weight":
            w["model.norm.weight"] = x
        else:
            _, layer, kind, suffix = t.name.split(".")
            w[f"model.layers.{layer}.{back[kind]}.{suffix}"] = x
    m = Gemma3ForCausalLM(c)
    missing, unexpected = m.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in w.items()}, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    return m.float().eval()


def main():
    if sys.argv[1] in ("tiny", "dims"):
        ids = np.random.default_rng(7).integers(3, 259, N).tolist()
        for seed, (name, arch, m) in enumerate(cases() if sys.argv[1] == "tiny" else dims_cases()):
            randomise(m, seed)
            write_gguf(f"{sys.argv[2]}/{name}.gguf", arch, m)
            write_golden(f"{sys.argv[2]}/{name}.txt", m, ids, list(range(N)))
        return
    from llama_cpp import Llama
    vocabulary = Llama(sys.argv[2], vocab_only=True, verbose=False)
    text = open("tests/golden/prose.txt", "rb").read()
    ids = vocabulary.tokenize(text, add_bos=True, special=False)[:704]
    write_golden(sys.argv[3], load_gemma3(sys.argv[2]), ids, list(range(0, len(ids), 32)) + [len(ids) - 1])


if __name__ == "__main__":
    main()
