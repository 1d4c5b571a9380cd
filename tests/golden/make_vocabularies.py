#!/usr/bin/env python3
"""Small vocabularies for each way of tokenizing, and the ids that llama.cpp gives texts with them.

    pip install gguf llama-cpp-python
    python3 tests/golden/make_vocabularies.py tests/golden/vocab [gemma-3-270m-q4_k_m.gguf]

NAME.gguf: merges learned from tests/golden/prose.txt and the texts of make_tokenizer_cases.py; NAME.jsonl: [text, parse_special, ids] a
line. With a gemma3 file also gemma3.jsonl, for that file's own vocabulary."""
import json
import random
import re
import sys
from collections import Counter

from gguf import GGUFWriter
from llama_cpp import Llama

import make_tokenizer_cases as cases

N_MERGES = 500


def alphabet():
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, extra = [], 0
    for b in range(256):
        out.append(chr(b) if b in printable else chr(256 + extra))
        extra += b not in printable
    return out


def learn(words, n_merges):
    """words: {tuple of symbols: count}. Merges in the order learned; ties by text, so that the result is one."""
    merges = []
    for _ in range(n_merges):
        pairs = Counter()
        for w, c in words.items():
            for a, b in zip(w, w[1:]):
                pairs[a, b] += c
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        new = Counter()
        for w, c in words.items():
            out, i = [], 0
            while i < len(w):
                if w[i:i + 2] == best:
                    out.append(w[i] + w[i + 1])
                    i += 2
                else:
                    out.append(w[i])
                    i += 1
            new[tuple(out)] += c
        words = new
    return merges


def texts(special):
    r = random.Random(2)
    out = cases.PROSE + cases.CODE + cases.DIGITS + cases.SCRIPTS + cases.EMOJI + cases.SPACES + cases.CONTROL
    out += [cases.random_text(r) for _ in range(120)] + [cases.random_unicode(r) for _ in range(60)]
    out += ["DON'T 'S 'Re it'Ll", "a\r\n\r\nb  \r\n c", "12345 1234567 ١٢٣٤", "don't123stop", "x=1;\n\n\ty=22\n", "  \n  \n x", "$a+b<c>=d^e|f~g", "100%!?..."]
    return [t for t in out if "\u2581" not in t], special


def start(path, model, pre=None):
    w = GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    return w


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_byte_level(path, pre, corpus):
    chars = alphabet()
    words = Counter()
    for word in re.findall(r" ?\w+| ?[^\w\s]+|\s+", corpus):
        words[tuple(chars[b] for b in word.encode())] += 1
    merges = learn(words, N_MERGES)
    tokens, seen = ["<|endoftext|>", "<|x|>"] + chars, set(chars)
    for a, b in merges:
        if a + b not in seen:
            seen.add(a + b)
            tokens.append(a + b)
    whole = ["".join(chars[b] for b in x.encode()) for x in (" beginning", " without", "12", "123")]  # tokens that no merge makes
    tokens += [x for x in whole if x not in seen]
    w = start(path, "gpt2", pre)
    w.add_token_list(tokens)
    w.add_token_types([3, 4] + [1] * (len(tokens) - 2))
    w.add_token_merges([a + " " + b for a, b in merges])
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    finish(w)


def write_scored(path, corpus):
    text = corpus.replace(" ", "\u2581")
    words = Counter(tuple(x) for x in re.findall("\u2581*[^\u2581\n]+|\u2581+|\n+", text))
    merges = learn(words, N_MERGES)
    common = sorted(c for c, n in Counter(text).items() if n > 3 and c not in "\n")
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    n_special = len(tokens)
    for x in [a + b for a, b in merges] + common:
        if x not in tokens:
            tokens.append(x)
    w = start(path, "llama", "default")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * n_special + [-float(i) for i in range(len(tokens) - n_special)])
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - n_special))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    finish(w)


def write_cases(model, out, special):
    m = Llama(model, vocab_only=True, verbose=False)
    plain, special = texts(special)
    with open(out, "w") as f:
        for parse, group in ((False, plain + special), (True, special)):
            for t in group:
                ids = m.tokenize(t.encode(), add_bos=False, special=parse) if t else []
                f.write(json.dumps([t, parse, ids], separators=(",", ":")) + "\n")


def main():
    out = sys.argv[1]
    corpus = open("tests/golden/prose.txt").read() + "\n".join(texts([])[0])
    for pre in ("gpt-2", "llama-bpe", "qwen2", "default", "smollm"):
        write_byte_level(f"{out}/{pre}.gguf", pre, corpus)
        write_cases(f"{out}/{pre}.gguf", f"{out}/{pre}.jsonl", ["a<|endoftext|>b", "<|x|> c<|x|>", " <|endoftext|> x"])
    write_scored(f"{out}/spm.gguf", corpus)
    write_cases(f"{out}/spm.gguf", f"{out}/spm.jsonl", ["a</s>b", "<s> c", "x<unk>y"])
    if len(sys.argv) > 2:
        write_cases(sys.argv[2], f"{out}/gemma3.jsonl", ["<start_of_turn>user\nhi<end_of_turn>\n", "a<eos>b", "<b>x</b>"])


if __name__ == "__main__":
    main()
