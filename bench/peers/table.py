"""Prints times.tsv of bench/peers.sh: every setting's best round, kvlab's ratios to the best of its peers, and the table of targets."""
import sys

best = {}
for line in open(sys.argv[1]):
    engine, setting, test, n, rate = line.rstrip("\n").split("\t")
    key = (engine, setting, test, int(n))
    best[key] = max(best.get(key, 0.0), float(rate))
ORDER = ["prefill", "decode", "batch"]
tests = sorted({k[2:] for k in best if k[2] in ORDER}, key=lambda t: (ORDER.index(t[0]), t[1]))
settings = sorted({k[:2] for k in best if k[2] in ORDER}, key=lambda s: (["kvlab", "llama.cpp", "openvino"].index(s[0]), s[1]))
read = max((v for k, v in best.items() if k[2] == "read"), default=0)
if settings:
    print(f"tokens/s, {sys.argv[2]} thread(s), best of {sys.argv[3]}; read bandwidth {read:.1f} GB/s")
    print(f"{'':20s}" + "".join(f"{t[0] + ' ' + str(t[1]):>14s}" for t in tests))
for s in settings:
    print(f"{s[0] + ' ' + s[1]:20s}" + "".join(f"{best[s + t]:14.1f}" if s + t in best else f"{'-':>14s}" for t in tests))


def peers(test, names):
    """The best of the settings named, and which it is."""
    return max(((v, " ".join(k[:2])) for k, v in best.items() if k[2:] == test and k[0] != "kvlab" and any(k[1].startswith(n) for n in names)),
               default=(0, "-"))


if settings:
    print("\nratio of kvlab's rate to the best peer's")
for t in tests:
    for mine in ("full", "k8v4", "k4v2"):
        if ("kvlab", mine) + t not in best or (t == ("decode", 1) and mine != "full"):
            continue
        row = f"{t[0]} {t[1]}, {mine}"
        print(f"{row:26s}", end="")
        for title, names in (("uncompressed", ["f16"]), ("8 bits", ["q8_0", "u8"]), ("4 bits", ["q4_0"]), ("evicting", ["evict", "kvcrush"])):
            v, who = peers(t, names)
            if v:
                print(f"  {title} {best[('kvlab', mine) + t] / v:6.2f} ({who})", end="")
        print()


def of_engine(engine, test, n, names=("",)):
    return max((v for k, v in best.items() if k[0] == engine and k[2:] == (test, n) and any(k[1].startswith(x) for x in names)), default=0)


def against(cache, test, n, names, engines=("llama.cpp", "openvino")):
    """kvlab's rate with that cache over the best of the engines' settings; None without both."""
    mine, other = best.get(("kvlab", cache, test, n), 0), max(of_engine(e, test, n, names) for e in engines)
    return mine / other if mine and other else None


ANY, PLAIN, EIGHT = ("",), ("f16",), ("q8_0", "u8")
own = {k[2:]: v for k, v in best.items() if k[1] == "alone"}  # numbers that need no peer
inverse = {k: 1 / v for k, v in own.items() if v}
deep = max((n for name, n in tests if name == "decode" and n > 7000), default=0)  # what was taken for 8k; 0: left out
eight_k = f"8k ({deep})" if deep else "8k"
targets = [  # what, must, aim, measured; True: less is better
    ("kernel K8V4 / read bandwidth, 4k", 0.50, 0.70, own.get(("k8v4_of_read", 4096)), False),
    ("kernel K8V4 / read bandwidth, 32k", 0.60, 0.85, own.get(("k8v4_of_read", 32768)), False),
    ("kernel f16 / read bandwidth, 32k", 0.70, 0.90, own.get(("f16_of_read", 32768)), False),
    ("time K4V2 / time f16, 32k, 2 threads", 0.45, 0.30, inverse.get(("f16_to_k4v2", 32768)), True),
    ("decode, empty cache, best peer", 1.6, 2.4, against("full", "decode", 1, ANY), False),
    ("decode 4k, K8V4, best uncompressed peer", 3, 4.5, against("k8v4", "decode", 4096, PLAIN), False),
    ("decode 4k, K8V4, best 8-bit peer", 3.5, 5.5, against("k8v4", "decode", 4096, EIGHT), False),
    (f"decode {eight_k}, K8V4, best uncompressed peer", 3, 5, against("k8v4", "decode", deep, PLAIN), False),
    (f"decode {eight_k}, K8V4, best 8-bit peer", 4, 6, against("k8v4", "decode", deep, EIGHT), False),
    ("decode, 8 sequences of 1k, K8V4, best peer", 4, 8, against("k8v4", "batch", 1024, ANY), False),
    ("prefill 1k, llama.cpp", 7, 11, against("full", "prefill", 1024, ANY, ("llama.cpp",)), False),
    ("prefill 1k, OpenVINO", 1, 1.5, against("full", "prefill", 1024, ANY, ("openvino",)), False),
    ("prefill 4k into K8V4, llama.cpp q8_0", 12, 18, against("k8v4", "prefill", 4096, ("q8_0",), ("llama.cpp",)), False),
    ("prefill 4k into K8V4, OpenVINO u8", 1, 1.5, against("k8v4", "prefill", 4096, ("u8",), ("openvino",)), False),
    ("decode 8k, K8V4, 1 -> 2 threads", 1.6, 1.9, own.get(("two_threads", 8000)), False),
    ("slack + tables / live, K8V4 + K4V2, 4k, %", 5, 3, inverse.get(("slack", 4096)), True),
    ("slack + tables / live, K8V4 + K4V2, 512, %", 20, 14, inverse.get(("slack", 512)), True),
    ("experiments/demo.yaml, minutes", 5, 2.5, inverse.get(("demo", 0)), True),
]
print(f"\n{'target':48s} {'must':>6s} {'aim':>6s} {'measured':>9s}")
for what, must, aim, value, less in targets:
    if value is None:
        print(f"{what:48s} {must:6g} {aim:6g} {'-':>9s}  not measured in this run")
        continue
    reached = [value <= x if less else value >= x for x in (must, aim)]
    print(f"{what:48s} {must:6g} {aim:6g} {value:9.2f}  {'aim met' if reached[1] else 'met' if reached[0] else 'MISSED'}")
