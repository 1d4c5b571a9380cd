"""Prints times.tsv of bench/peers.sh: every setting's best round, then kvlab's ratios to the best of its peers."""
import sys

best = {}
for line in open(sys.argv[1]):
    engine, setting, test, n, rate = line.rstrip("\n").split("\t")
    key = (engine, setting, test, int(n))
    best[key] = max(best.get(key, 0.0), float(rate))
tests = sorted({k[2:] for k in best if k[2] != "read"}, key=lambda t: (["prefill", "decode", "batch"].index(t[0]), t[1]))
settings = sorted({k[:2] for k in best}, key=lambda s: (["kvlab", "llama.cpp", "openvino"].index(s[0]), s[1]))
read = max((v for k, v in best.items() if k[2] == "read"), default=0)
print(f"tokens/s, {sys.argv[2]} thread(s), best of {sys.argv[3]}; read bandwidth {read:.1f} GB/s")
print(f"{'':20s}" + "".join(f"{t[0] + ' ' + str(t[1]):>14s}" for t in tests))
for s in settings:
    print(f"{s[0] + ' ' + s[1]:20s}" + "".join(f"{best[s + t]:14.1f}" if s + t in best else f"{'-':>14s}" for t in tests))


def peers(test, names):
    """The best of the settings named, and which it is."""
    return max(((v, " ".join(k[:2])) for k, v in best.items() if k[2:] == test and k[0] != "kvlab" and any(k[1].startswith(n) for n in names)),
               default=(0, "-"))


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
