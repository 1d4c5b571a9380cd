#!/usr/bin/env bash
# Builds and runs the tests of the SIMT executor (tests/simt) and of the kernels' building blocks (kernels/cuda). Prints "ok NAME", "not ok
# NAME" or "ok NAME # SKIP reason" for each check; exit 1 when one failed. Needs g++, make and binutils; clang++ and nvcc are used where
# they are present.
# `run_simt.sh san` runs the executor, the checker and unhooked kernels under AddressSanitizer and UBSan, with g++ and fewer schedules.
set -u
cd "$(dirname "$0")/.." || exit 1
make=${MAKE:-make}
config=${1:-release}
jobs=$(nproc 2>/dev/null || echo 2)
logs=build/simt
mkdir -p "$logs"
failed=0
sources="kernels/cuda/block.cuh kernels/cuda/samples/*.cuh tests/simt/cases_tricky.cpp tests/simt/cases_block.cpp tests/simt/cases_stream.cpp"

check() { # name, command...
    local name=$1 log
    shift
    log=$logs/$(tr -c 'a-z0-9\n' - <<<"$name").log
    if "$@" >"$log" 2>&1; then
        echo "ok $name"
    else
        echo "not ok $name"
        tail -n 20 "$log" | sed 's/^/# /'
        failed=1
    fi
}

# A program prints its own lines, here with a prefix; ending badly without one counts as well.
run() { # prefix, program, arguments...
    local prefix=$1 status
    shift
    timeout -k 5 120 "$@" 2>"$logs/stderr.log" | sed -E "s/^(ok|not ok) /\1 $prefix: /"
    status=${PIPESTATUS[0]}
    if [ "$status" -ne 0 ]; then
        failed=1
        if [ "$status" -ne 1 ]; then
            echo "not ok $prefix: exit status $status"
            tail -n 5 "$logs/stderr.log" | sed 's/^/# /'
        fi
    fi
}

run_all() { # compiler, number of random schedules, what the build's name ends in
    local build=build/simt/$1${3:-} schedules=$2
    run "$1 types" "$build/test_types"
    run "$1 plain" "$build/plain/test_executor"
    run "$1 plain" "$build/plain/test_streams"
    run "$1 plain" "$build/plain/test_samples"
    run "$1 checked" "$build/checked/test_executor"
    run "$1 checked" "$build/checked/test_streams"
    run "$1 checked" "$build/checked/test_bugs"
    run "$1 checked" "$build/checked/test_races" "$((3 * schedules))"
    run "$1 checked" "$build/checked/test_samples" "$schedules"
    # shellcheck disable=SC2086
    run "$1 checked" "$build/checked/test_mutants" $sources
    run "$1 counted" "$build/counted/test_count"
}

# The processor's time in kernels, the best of several runs of each program in turn; more of them where others disturb.
checker_cost() {
    local plain=build/simt/g++/plain/test_samples checked=build/simt/g++/checked/test_samples round
    : >"$logs/plain.times"
    : >"$logs/checked.times"
    for round in 1 2 3 4 5 6 7 8 9 10 11 12; do
        "$plain" 4 time >>"$logs/plain.times" && "$checked" 4 time >>"$logs/checked.times" || return 1
        [ "$round" -ge 2 ] && compare_times >"$logs/checker-cost" && break
    done
    compare_times
}
compare_times() {
    awk '{ seconds = $1; $1 = ""; if (FILENAME ~ /plain/) { if (!($0 in p) || seconds < p[$0]) p[$0] = seconds }
           else if (!($0 in c) || seconds < c[$0]) c[$0] = seconds }
         END {
            for (name in p) {
                n++; plain += p[name]; checked += c[name]; r = c[name] / p[name]
                printf "%5.1f times%s: %.3f ms, %.3f plain\n", r, name, 1e3 * c[name], 1e3 * p[name]
                if (r > worst) { worst = r; slowest = name }
            }
            printf "all kernels %.1f times, the worst %.1f:%s\n", checked / plain, worst, slowest
            exit !(n > 40 && checked <= 10 * plain && worst <= 10)
         }' "$logs/plain.times" "$logs/checked.times"
}

if [ "$config" = san ]; then
    check "g++ builds the executor and its tests under sanitizers" "$make" --no-print-directory -j"$jobs" simt-programs SIMT_CXX=g++ config=san
    run_all g++ 100 -san
    exit $failed
fi
check "g++ builds the executor and its tests without a warning" "$make" --no-print-directory -j"$jobs" simt-programs SIMT_CXX=g++
run_all g++ 1000
check "the checker costs at most ten times the plain executor" checker_cost
if command -v clang++ >/dev/null 2>&1; then
    check "clang++ builds the executor and its tests without a warning" "$make" --no-print-directory -j"$jobs" simt-programs SIMT_CXX=clang++
    run_all clang++ 100
else
    echo "ok clang++ builds and runs the same # SKIP clang++ is not installed"
fi
if command -v nvcc >/dev/null 2>&1; then
    check "nvcc compiles the same sources without a warning" "$make" --no-print-directory -j"$jobs" simt-nvcc
else
    echo "ok nvcc compiles the same sources without a warning # SKIP nvcc is not installed"
fi
exit $failed
