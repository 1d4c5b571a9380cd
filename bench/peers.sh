#!/usr/bin/env bash
# kvlab beside llama.cpp and OpenVINO GenAI: the same GGUF file, threads and lengths, one after the other in turns, one table of ratios.
#
#   bench/peers.sh [-t THREADS] [-r ROUNDS] [-d DIR] [-l LENGTHS] [-q] [-k] [-D] [-T] [MODEL.gguf]
#     default: 1 thread, 3 rounds, ~/.cache/kvlab/peers, lengths 1024,4096,8000, the default model; -q leaves out the batch of 8 sequences
#     -k measures only what needs no peer, -D times experiments/demo.yaml too, -T prints the tables of the last run again
#     A round of it all takes some 40 minutes of an idle core, 8000 alone half of that (16 steps do not fit behind 8192 tokens of context).
#
# What is fair about it, and what is not:
# * Every engine runs at several settings and each line compares with its best one: llama.cpp with flash attention on and off and a cache in
#   f16, q8_0 (K and V) and q4_0; OpenVINO with a cache in f16 and u8 (its default), with eviction to 672 tokens, and with KVCrush.
#   "Uncompressed" is the best of the f16 settings, "8 bits" the best of q8_0 and u8.
# * llama.cpp is the tree in the source package llama-cpp-python 0.3.36, built for this CPU. With AVX512-FP16 ggml multiplies f16 rows in
#   steps of 128, which throws heads of 64 into a scalar tail (3.6 times slower); there it is built without that instruction set. It is driven
#   through its public API with llama-bench's defaults (batches of 2048 in pieces of 512), in peers/llama_times.c.
# * OpenVINO GenAI 2026.4.1 comes from its pip package, reads the same file, and multiplies prompts in bf16 where the CPU can. Its steps are timed
#   one by one through its pipeline of continuous batching, and the median counts.
# * With one thread the time is CPU time of the process, for all three, so that another program's turn on the core counts for nobody; it
#   counts threads beside the one asked for, if an engine starts any. With more threads it is wall time: then the machine must be quiet.
# * Rounds go through all engines in turn, and the best round of each setting counts. Load average and read bandwidth are printed with it.
# * Rows of the table of targets that need no peer (kernels beside the read bandwidth of the same working set, slack, 1 -> 2 threads: CPU
#   time of one against wall time of two) are kvlab's alone; a ratio of the table is kvlab's best round over the peers' best.
# * Nothing here compares quality: kvlab's KL for each cache is in docs/results.md, and eviction drops tokens in every engine that does it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
threads=1 rounds=3 dir=${XDG_CACHE_HOME:-$HOME/.cache}/kvlab/peers lengths=1024,4096,8000 batch=batch peers=yes demo= again=
while getopts t:r:d:l:qkDT o; do
    case $o in
    t) threads=$OPTARG ;; r) rounds=$OPTARG ;; d) dir=$OPTARG ;; l) lengths=$OPTARG ;; q) batch= ;;
    k) peers= ;; D) demo=yes ;; T) again=yes ;;
    *) sed -n '4,6s/^# *//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
model=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/kvlab/models/SmolLM2-135M-Instruct.Q4_1.gguf}
kvlab=$here/../kvlab
[ -e "$model" ] || { echo "$model is missing: run 'make model'" >&2; exit 3; }
[ -x "$kvlab" ] || { echo "$kvlab is missing: run 'make'" >&2; exit 3; }
case $(readlink -f "$dir" 2>/dev/null || echo "$dir")/ in "$(readlink -f "$here/..")"/*) echo "$dir lies in the repository; choose another" >&2; exit 2 ;; esac
mkdir -p "$dir"

out=$dir/times.tsv # engine, setting, test, length, rate
if [ -n "$again" ]; then exec python3 "$here/peers/table.py" "$out" "$threads" "$rounds"; fi

version=0.3.36 tree=$dir/llama_cpp_python-0.3.36/vendor/llama.cpp
if [ -n "$peers" ] && [ ! -e "$dir/build/src/libllama.a" ]; then
    if [ ! -d "$tree" ]; then
        [ -d "$dir/pip" ] || python3 -m venv "$dir/pip"
        "$dir/pip/bin/pip" download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version" -d "$dir"
        tar -xzf "$dir/llama_cpp_python-$version.tar.gz" -C "$dir"
    fi
    isa=-DGGML_NATIVE=ON
    if grep -qw avx512_fp16 /proc/cpuinfo; then # see above
        isa="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
    fi
    cmake -S "$tree" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release $isa -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
        >"$dir/configure.log" 2>&1 || { tail -n 20 "$dir/configure.log" >&2; exit 3; }
    cmake --build "$dir/build" -j"${JOBS:-1}" --target llama >"$dir/build.log" 2>&1 || { tail -n 20 "$dir/build.log" >&2; exit 3; }
fi
if [ -n "$peers" ] && { [ ! -x "$dir/llama_times" ] || [ "$here/peers/llama_times.c" -nt "$dir/llama_times" ]; }; then
    cc -O2 -I"$tree/include" -I"$tree/ggml/include" "$here/peers/llama_times.c" -o "$dir/llama_times" "$dir/build/src/libllama.a" \
        "$dir"/build/ggml/src/libggml{,-cpu,-base}.a -lstdc++ -fopenmp -lm -lpthread -ldl
fi
if [ -n "$peers" ] && [ ! -e "$dir/ov/done" ]; then
    python3 -m venv "$dir/ov"
    "$dir/ov/bin/pip" install -q openvino-genai==2026.4.1 numpy
    touch "$dir/ov/done"
fi

: >"$out"
tests="decode:1"
for n in ${lengths//,/ }; do tests="$tests decode:$n"; done # a prompt's rate comes with it
tests="$tests${batch:+ batch:1024}"
run() { # engine, setting, command...
    local engine=$1 setting=$2
    shift 2
    if ! "$@" 2>"$dir/err" | awk -v e="$engine" -v s="$setting" '{ print e "\t" s "\t" $1 "\t" $2 "\t" $3 }' >>"$out"; then
        echo "$engine, $setting failed:" >&2
        tail -n 3 "$dir/err" >&2
        exit 1
    fi
}
kvlab_times() { # policy
    "$kvlab" bench prefill decode $batch -m "$model" -t "$threads" -p "$1" --depths "$lengths" --repeats 1 --json |
        python3 -c 'import json, re, sys
for r in json.load(sys.stdin)["rows"]:
    if r["rate_unit"] == "tokens/s": print(r["section"], re.search(r"(\d+)( tokens)?$", r["what"]).group(1), r["rate"])
    elif r["what"] == "read, 256 MiB": print("read", 0, r["rate"])'
}
# What needs no peer: kernels beside reads of the same bytes, slack of two tiers, a second thread.
kvlab_alone() {
    "$kvlab" bench attention -m "$model" --isa auto -t 2 --formats f16,k8v4,k4v2 --depths 4096,32768 --repeats 5 --json |
        python3 -c 'import json, re, sys
rows = {}
for r in json.load(sys.stdin)["rows"]:
    m = re.fullmatch(r"(\w+) \(\d+ B/item\), (\d+) items", r["what"])
    if m: rows[m[1], int(m[2]), r["threads"]] = r
for (f, n, t), r in rows.items():
    if t == 1: print(f + "_of_read", n, r["rate"] / r["of"])
print("f16_to_k4v2", 32768, rows["f16", 32768, 2]["min"] / rows["k4v2", 32768, 2]["min"])'
    "$kvlab" bench memory -m "$model" --depths 512,4096 --json | python3 -c 'import json, sys
for r in json.load(sys.stdin)["rows"]:
    if r["what"].startswith("k8v4 k4v2,"): print("slack", r["what"].split()[-2], 1 / r["rate"])'
    for t in 1 2; do
        python3 -c 'import json, subprocess, sys, time
kvlab, model, threads = sys.argv[1:]
text = subprocess.run([kvlab, "bench", "decode", "-m", model, "-t", threads, "-p", "k8v4", "--depths", "8000", "--repeats", "3", "--json"],
                      check=True, capture_output=True).stdout
print([r["rate"] for r in json.loads(text)["rows"] if r["what"].endswith("depth 8000")][0])' "$kvlab" "$model" $t
    done | awk '{ x[NR] = $1 } END { print "two_threads", 8000, x[2] / x[1] }'
    if [ -n "$demo" ]; then
        local start=$SECONDS
        (cd "$here/.." && "$kvlab" run experiments/demo.yaml --out "$dir/demo.$$" >/dev/null && rm -rf "$dir/demo.$$")
        echo "demo 0 $(awk "BEGIN { print 60 / ($SECONDS - $start) }")"
    fi
}
run kvlab alone kvlab_alone
for round in $(seq "$rounds"); do
    if [ -z "$peers" ]; then break; fi
    for cache in full k8v4 k4v2; do run kvlab $cache kvlab_times $cache; done
    for fa in 0 1; do run llama.cpp "f16 fa=$fa" "$dir/llama_times" "$model" "$threads" f16 f16 $fa $tests; done
    for type in q8_0 q4_0; do run llama.cpp "$type fa=1" "$dir/llama_times" "$model" "$threads" $type $type 1 $tests; done
    for kv in f16 u8 evict kvcrush; do run openvino $kv "$dir/ov/bin/python" "$here/peers/openvino_times.py" "$model" "$threads" $kv $tests; done
    echo "round $round of $rounds done, load average $(cut -d' ' -f1 /proc/loadavg)" >&2
done
python3 "$here/peers/table.py" "$out" "$threads" "$rounds"
