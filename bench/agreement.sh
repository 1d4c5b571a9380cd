#!/usr/bin/env bash
# Prints the figures of a results directory of experiments/agreement.yaml beside those of other software (tests/golden/agreement.tsv:
# transformers with fake quantisation, kvpress 0.5.5). They agree when KL is within 15 % or 0.0003 nats; random only by its size; of LeanKV
# also the shares of tokens in the high tier and pruned, within 0.3 points.
#   bench/agreement.sh results/agreement
# Exit status 1 when a figure does not agree.
set -euo pipefail
dir=${1:?usage: bench/agreement.sh RESULTS_DIR}
here=$(cd "$(dirname "$0")/.." && pwd)
csv=$dir/export/summary.csv points=$dir/export/points.csv
for f in "$csv" "$points"; do
    [ -e "$f" ] || { echo "$f is missing: run 'kvlab export $dir'" >&2; exit 3; }
done
python3 - "$csv" "$here/tests/golden/agreement.tsv" "$points" <<'PY'
import csv, re, sys

def short(label):
    label = re.sub(r"tiers=\[\S+\] format=(\w+) recent=(\d+)", r"\1 recent=\2", label)
    label = re.sub(r" tiers=\[f32,k8v4,k4v2\] recent=k8v4", "", label)
    return re.sub(r" tiers=\[f32\]", "", label)

got = {}
for row in csv.DictReader(open(sys.argv[1])):
    got.setdefault(short(row["point"]), {})[row["metric"]] = float(row["mean"] or "nan")
for row in csv.DictReader(open(sys.argv[3])):
    if short(row["label"]) in got and row["kept"]: # k8v4: 96 bytes of payload at head_dim 64, k4v2: 48, f16: 256
        live = sum(float(row[part]) for part in ("payload", "metadata", "columns", "tables"))
        heads = float(row["bytes_per_token_f16"]) / 256 * live / float(row["bytes_per_token"]) # times tokens
        kept = float(row["kept"])
        got[short(row["label"])]["high"] = 100 * (float(row["payload"]) / heads - 48 * kept) / 48
        got[short(row["label"])]["pruned"] = 100 * (1 - kept)
bad = missing = n = 0
print(f"{'policy':40s} {'KL':>8s} {'other':>8s}  {'top-1':>6s} {'other':>6s}")
for line in open(sys.argv[2]):
    if line.startswith("#") or not line.strip():
        continue
    name, kl, top1, *shares = line.rstrip("\n").split("\t")
    if name not in got:
        missing += 1
        continue
    n += 1
    have, want = got[name]["kl"], float(kl)
    fine = abs(have - want) <= max(0.15 * want, 0.0003)
    if name.startswith("random"):
        fine = 0.4 * want <= have <= 2.5 * want
    note = ""
    for part, other in zip(("high", "pruned"), shares):
        note += f"  {part} {got[name][part]:.1f} / {float(other):.1f} %"
        fine &= abs(got[name][part] - float(other)) <= 0.3
    bad += not fine
    print(f"{name:40s} {have:8.4f} {want:8.4f}  {100 * got[name]['top1']:6.1f} {float(top1):6.1f}{note}  {'' if fine else 'DIFFERS'}")
print(f"{n - bad} of {n} agree" + (f", {missing} not run" if missing else ""))
sys.exit(bad > 0 or n == 0)
PY
