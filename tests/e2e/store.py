#!/usr/bin/env python3
"""sweep.h5 of a real sweep, read by h5py and xarray and compared with the journal, which this script reads for itself."""
import csv
import json
import os
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
    import xarray as xr
    import h5netcdf  # noqa: F401  (xarray's engine)
except ImportError as missing:
    # The packages are Debian's; another python3 may come first in PATH.
    if os.path.exists("/usr/bin/python3") and os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3"] + sys.argv)
    sys.exit(f"not ok python packages: {missing}; apt-get install python3-h5py python3-xarray python3-h5netcdf")

kvlab, helpers = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
n_bad = 0


def check(name, holds, why=""):
    global n_bad
    print(f"{'ok' if holds else 'not ok'} {name}")
    if not holds:
        n_bad += 1
        print(f"  {why}")


def run(*args, status=0):
    p = subprocess.run(args, capture_output=True, text=True)
    if p.returncode != status:
        sys.exit(f"not ok {' '.join(args)} ended with {p.returncode}\n{p.stdout[-600:]}\n{p.stderr[-600:]}")
    return p


SWEEP = """
name: store
question: Does the file hold what the journal says?
model: {path: m.gguf}
data: {text: text.txt}
engine: {threads: 1}
tasks:
  - {preset: lm, context: 160, tokens: 24, records: 5, skip: 50, stride: 200}
  - {preset: passkey, length: [160], depth: [0.2, 0.8], samples: 2}
  - {preset: speed, context: [64, 128], decode: 4, warmup: 1, repeats: 1, skip: 0}
sweep:
  list:
    - {policy.preset: [full, k8v4]}
    - {policy.preset: [snapkv, adakv], policy.budget: [0.5, 0.25]}
    - {policy.preset: [snapkv_k8v4], policy.budget: [0.5]}
"""


def read_journal(path):
    header, records, noise = None, {}, {}
    for line in open(path):
        j = json.loads(line.split(" ", 1)[1])
        if j["kind"] == "sweep":
            header = j
        elif j["kind"] == "noise" or j.get("noise"):
            noise[(j["point"], j["task"], j["item"])] = j
        else:
            records[(j["point"], j["task"], j["item"])] = j
    return header, records, noise


def same(x, y):
    """Equal numbers, NaN counting as null."""
    return (y is None and np.isnan(x)) or (y is not None and x == y)


def open_group(name):
    with xr.open_dataset("out/sweep.h5", group=name, engine="h5netcdf") as ds:
        return ds.load()


work = tempfile.mkdtemp(prefix="kvlab-store-")
os.chdir(work)
run(os.path.join(helpers, "tiny_model"), "m.gguf", "1", "3", "context=512")
with open("text.txt", "w") as f:
    for i in range(3000):
        f.write(f"The {i * 7919 % 1000} words of line {i} say nothing, yet {'they differ' if i % 3 else 'others repeat'}.\n")
open("s.yaml", "w").write(SWEEP)
run(kvlab, "run", "s.yaml", "-o", "out", "-q")

header, records, noise = read_journal("out/journal/units.jsonl")
points, tasks = header["points"], {t["name"]: t for t in header["tasks"]}
labels = [p["label"] for p in points]
path = "out/sweep.h5"
h5 = h5py.File(path, "r")

check("root holds provenance", h5.attrs["schema"] == 1 and h5.attrs["sweep_id"] == header["sweep_id"] and h5.attrs["name"] == "store"
      and h5.attrs["environment_json"] == open("out/environment.json").read() and h5.attrs["sweep_yaml"] == open("out/sweep.yaml").read()
      and h5.attrs["resolved_yaml"] == open("out/resolved.yaml").read() and len(h5.attrs["environment.machine.cpu"]) > 0, dict(h5.attrs))
check("/points has a row per point", [s.decode() for s in h5["points/id"][:]] == [p["id"] for p in points]
      and [s.decode() for s in h5["points/point"][:]] == labels and [s.decode() for s in h5["points/axis.policy.preset"][:]][:2] == ["full", "k8v4"])

for name, task in tasks.items():
    ds = open_group(f"/metrics/{name}")
    n = task["n_items"]
    check(f"xarray reads labelled arrays of {name}", list(ds.point.values) == labels and ds.sizes["item"] == n
          and all(ds[m["name"]].dims == ("point", "item") for m in task["metrics"]), ds)
    wrong = [(p["label"], i, m["name"]) for p in points for i in range(n) for m in task["metrics"]
             if not same(float(ds[m["name"]].sel(point=p["label"]).values[i]), records[(p["id"], name, i)]["metrics"].get(m["name"]))]
    check(f"every metric of {name} equals the journal's", not wrong, wrong[:5])
    check(f"units, directions and timings of {name}", all(
        ds[m["name"]].attrs.get("units", "") == m["unit"] and ds[m["name"]].attrs["direction"] == ["neutral", "higher", "lower"][m["direction"]]
        and bool(ds[m["name"]].attrs.get("timing", 0)) == m["timing"] and ds[m["name"]].attrs["help"] == m["help"] for m in task["metrics"]))
    summary = open_group(f"/summary/{name}")
    m = task["metrics"][0]["name"]
    means, by_hand = summary[m].sel(stat="mean").values, ds[m].mean("item").values
    lo, hi = summary[m].sel(stat="lo").values, summary[m].sel(stat="hi").values
    check(f"means of {name} lie within their intervals", np.allclose(means, by_hand, rtol=1e-12, equal_nan=True)
          and np.all((lo <= means * (1 + 1e-12)) & (means <= hi * (1 + 1e-12)) | np.isnan(means)), (means, by_hand))
    diff = (ds[m] - ds[m].sel(point="full")).mean("item").values
    check(f"paired differences of {name}", np.allclose(summary[m].sel(stat="diff_mean").values, diff, rtol=1e-9, atol=1e-12, equal_nan=True), diff)

    items = open_group(f"/items/{name}")
    wrong = []
    for p in points:
        for i in range(n):
            j, row = records[(p["id"], name, i)], items.sel(point=p["label"]).isel(item=i)
            for at in ("prompt", "end"):
                b = j[f"at_{at}"]
                wrong += [(p["label"], i, at, k) for k in ("payload", "metadata", "columns", "tables", "live", "slack", "committed", "full_f16")
                          if float(row[f"{at}_{k}"]) != b[k]]
            if float(row["n_prompt"]) != j["n_prompt"] or str(row["status"].values) != "ok" or str(row.item.values) != j["item_id"]:
                wrong.append((p["label"], i))
            if str(row["output"].values) != (j.get("output") or ""):
                wrong.append((p["label"], i, "output"))
    check(f"records of {name}: bytes, status, output", not wrong and items["seconds"].attrs["timing"] == 1, wrong[:5])

series = open_group("/series/lm")
wrong = []
for p in points:
    for i in range(tasks["lm"]["n_items"]):
        j = records[(p["id"], "lm", i)]
        for k in ("kl", "nll", "top1"):
            x = series[k].sel(point=p["label"]).isel(item=i).values
            want = np.asarray([float(v) for v in j["series"][k]] if "series" in j else [float(v) for v in j[k]], dtype=np.float32)
            if not np.array_equal(x[:len(want)], want) or not np.all(np.isnan(x[len(want):])):
                wrong.append((p["label"], i, k))
check("series equal the journal's, NaN behind", not wrong and series["kl"].dims == ("point", "item", "step"), wrong[:5])

heads = h5["heads/lm/kept"]
wrong = []
for a, p in enumerate(points):
    for i in range(tasks["lm"]["n_items"]):
        j = records[(p["id"], "lm", i)]
        kept = np.asarray(j["kept"], dtype=np.uint32).reshape(heads.shape[2], heads.shape[3], -1)
        x = heads[a, i]
        if not np.array_equal(x[:, :, :kept.shape[2]], kept) or x[:, :, kept.shape[2]:].any() or x.sum() != j["at_prompt"]["items"]:
            wrong.append((p["label"], i))
check("heads equal the journal's and sum up to the items", not wrong and heads.dtype == np.uint32
      and [d.label or list(d.keys())[0] for d in heads.dims] == ["point", "item", "layer", "head", "tier"], wrong[:5])

rows = list(csv.DictReader(open("out/export/metrics.csv", newline="")))
wrong = [r for r in rows if not same(float(r["value"] or "nan"), records[(r["point_id"], r["task"], int(r["item"]))]["metrics"].get(r["metric"]))]
check("metrics.csv equals the journal", not wrong and len(rows) == sum(t["n_items"] * len(t["metrics"]) for t in tasks.values()) * len(points), wrong[:3])
summary = json.load(open("out/export/results.json"))
lm = open_group("/summary/lm")
check("results.json agrees with sweep.h5", all(
    p["tasks"]["lm"]["metrics"]["kl"]["mean"]["mean"] == float(lm["kl"].sel(point=p["label"], stat="mean")) for p in summary["points"]))
h5.close()

run(kvlab, "verify", "out")
with h5py.File(path, "r+") as f:
    f["metrics/lm/kl"][1, 2] += 1e-9
p = run(kvlab, "verify", "out", status=4)
check("verify finds a changed file", "sweep.h5" in p.stderr and p.stderr.count("\n") == 1, p.stderr)
run(kvlab, "export", "out")
run(kvlab, "verify", "out")
check("export writes it anew", True)

subprocess.run(["rm", "-rf", work], check=True)
sys.exit(n_bad > 0)
