#!/usr/bin/env bash
# Builds and runs the tests of the SIMT executor (tests/simt) and of the kernels' building blocks (kernels/cuda). Prints "ok NAME", "not ok
# NAME" or "ok NAME # SKIP reason" for each check; exit 1 when one failed. Needs g++, make and binutils; clang++ and nvcc are used where
# they are present.
set -u
cd "$(dirname "$0")/.." || exit 1
make=${MAKE:-make}
jobs=$(nproc 2>/dev/null || echo 2)
logs=build/simt
mkdir -p "$logs"
failed=0
sources="kernels/cuda/block.cuh kernels/cuda/samples/*.cuh tests/simt/cases_tricky.cpp tests/simt/cases_block.cpp"

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

run_all() { # compiler, number of random schedules
    local build=build/simt/$1 schedules=$2
    run "$1 types" "$build/test_types"
    run "$1 plain" "$build/plain/test_executor"
    run "$1 plain" "$build/plain/test_streams"
    run "$1 plain" "$build/plain/test_samples"
    run "$1 checked" "$build/checked/test_executor"
    run "$1 checked" "$build/checked/test_streams"
    run "$1 checked" "$build/checked/test_bugs"
    run "$1 checked" "$build/checked/test_samples" "$schedules"
    # shellcheck disable=SC2086
    run "$1 checked" "$build/checked/test_mutants" $sources
    run "$1 counted" "$build/counted/test_count"
}

# Best of several runs each, all samples together.
checker_cost() {
    local plain=build/simt/g++/plain/test_samples checked=build/simt/g++/checked/test_samples
    "$plain" 15 time >"$logs/plain.times" && "$checked" 15 time >"$logs/checked.times" || return 1
    paste -d' ' <(cut -d' ' -f1 "$logs/checked.times") "$logs/plain.times" | awk '
        { c += $1; p += $2; r = $1 / $2; if (r > worst) { worst = r; $1 = $2 = ""; name = $0 } }
        END { printf "all samples %.1f times, the worst %.1f:%s\n", c / p, worst, name; exit !(NR > 20 && c <= 10 * p && worst <= 10) }'
}

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
