#!/usr/bin/env python3
"""Golden log-probabilities of a GGUF model of architecture llama, from transformers on the dequantised weights.

    pip install torch transformers gguf numpy
    python3 tests/golden/make_logprobs.py MODEL.gguf --ids tests/golden/prose_ids.json --out tests/golden/smollm2_logprobs.txt

Weights are dequantised to fp32 by the gguf package, the rows of q and k are put back into transformers' order (the file has them permuted for
RoPE on adjacent pairs), the model runs in fp32 with eager attention. One line per position: position, then the 20 most likely next
tokens as id:logprob, most likely first. C reads it with sscanf.
"""
import argparse
import json
import sys

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import LlamaConfig, LlamaForCausalLM

TOP = 20


def unpermute(w, n_head):
    """Inverse of the permutation that llama.cpp's converter applies to q and k."""
    rows, cols = w.shape
    return w.reshape(n_head, rows // n_head // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def load(path):
    r = GGUFReader(path)
    field = lambda k: r.fields[k].contents()
    p = "llama."
    cfg = LlamaConfig(
        vocab_size=next(t for t in r.tensors if t.name == "token_embd.weight").shape[1].item(),
        hidden_size=field(p + "embedding_length"), intermediate_size=field(p + "feed_forward_length"),
        num_hidden_layers=field(p + "block_count"), num_attention_heads=field(p + "attention.head_count"),
        num_key_value_heads=field(p + "attention.head_count_kv"), rms_norm_eps=field(p + "attention.layer_norm_rms_epsilon"),
        max_position_embeddings=field(p + "context_length"), tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": field(p + "rope.freq_base")}, rope_theta=field(p + "rope.freq_base"),
        attn_implementation="eager")
    w = {}
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    for t in r.tensors:
        x = dequantize(t.data, t.tensor_type).astype(np.float32)
        if t.name == "token_embd.weight":
            w["model.embed_tokens.weight"] = w["lm_head.weight"] = x
        elif t.name == "output_norm.weight":
            w["model.norm.weight"] = x
        else:
            _, layer, kind, _ = t.name.split(".")
            if kind == "attn_q":
                x = unpermute(x, cfg.num_attention_heads)
            if kind == "attn_k":
                x = unpermute(x, cfg.num_key_value_heads)
            w[f"model.layers.{layer}.{names[kind]}.weight"] = x
    m = LlamaForCausalLM(cfg)
    missing, unexpected = m.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in w.items()}, strict=False)
    assert not unexpected and all("inv_freq" in k for k in missing), (missing, unexpected)
    return m.float().eval()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model")
    a.add_argument("--ids", required=True)
    a.add_argument("--out", required=True)
    a = a.parse_args()
    ids = json.load(open(a.ids))
    m = load(a.model)
    with torch.no_grad():
        lp = torch.log_softmax(m(torch.tensor([ids])).logits[0].double(), -1)
    import transformers
    with open(a.out, "w") as f:
        f.write(f"kvlab-golden-logprobs 1 {len(ids)} {TOP}\n")
        f.write(f"# python3 tests/golden/make_logprobs.py {a.model.split('/')[-1]} --ids {a.ids} --out {a.out}"
                f"  (torch {torch.__version__}, transformers {transformers.__version__})\n")
        for pos in range(len(ids)):
            v, i = torch.topk(lp[pos], TOP)
            f.write(f"{pos} " + " ".join(f"{int(t)}:{float(x):.6f}" for x, t in zip(v, i)) + "\n")
    print(f"{a.out}: {len(ids)} positions, perplexity {float(torch.exp(-lp[range(len(ids) - 1), ids[1:]].mean())):.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
