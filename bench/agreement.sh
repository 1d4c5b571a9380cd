#!/usr/bin/env bash
# Prints the figures of a results directory of experiments/agreement.yaml beside those of other software (tests/golden/agreement.tsv:
# transformers with fake quantisation, kvpress 0.5.5). They agree when KL is within 15 % or 0.0003 nats; random only by its size.
#   bench/agreement.sh results/agreement
# Exit status 1 when a figure does not agree.
set -euo pipefail
dir=${1:?usage: bench/agreement.sh RESULTS_DIR}
here=$(cd "$(dirname "$0")/.." && pwd)
csv=$dir/export/summary.csv
[ -e "$csv" ] || { echo "$csv is missing: run 'kvlab export $dir'" >&2; exit 3; }
python3 - "$csv" "$here/tests/golden/agreement.tsv" <<'PY'
import csv, re, sys

got = {}
for row in csv.DictReader(open(sys.argv[1])):
    label = re.sub(r"tiers=\[\S+\] format=(\w+) recent=(\d+)", r"\1 recent=\2", row["point"])
    got.setdefault(re.sub(r" tiers=\[f32\]", "", label), {})[row["metric"]] = float(row["mean"] or "nan")
bad = missing = n = 0
print(f"{'policy':40s} {'KL':>8s} {'other':>8s}  {'top-1':>6s} {'other':>6s}")
for line in open(sys.argv[2]):
    if line.startswith("#") or not line.strip():
        continue
    name, kl, top1 = line.rstrip("\n").split("\t")
    if name not in got:
        missing += 1
        continue
    n += 1
    have, want = got[name]["kl"], float(kl)
    fine = abs(have - want) <= max(0.15 * want, 0.0003)
    if name.startswith("random"):
        fine = 0.4 * want <= have <= 2.5 * want
    bad += not fine
    print(f"{name:40s} {have:8.4f} {want:8.4f}  {100 * got[name]['top1']:6.1f} {float(top1):6.1f}  {'' if fine else 'DIFFERS'}")
print(f"{n - bad} of {n} agree" + (f", {missing} not run" if missing else ""))
sys.exit(bad > 0 or n == 0)
PY
