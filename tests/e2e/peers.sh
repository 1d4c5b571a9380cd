#!/usr/bin/env bash
# bench/peers.sh -T: the table of targets from numbers that are at hand; what was not measured is said to be so.
. "$(dirname "$0")/../support/e2e.sh"
mkdir "$work/peers"
{
    for row in "full decode 1 200" "k8v4 decode 4096 80" "k8v4 decode 8000 60" "k8v4 batch 1024 300" "full prefill 1024 1000" "k8v4 prefill 4096 570"; do
        set -- $row
        printf 'kvlab\t%s\t%s\t%s\t%s\n' "$@"
        printf 'llama.cpp\tf16 fa=1\t%s\t%s\t%s\n' "$2" "$3" 100
        printf 'llama.cpp\tq8_0 fa=1\t%s\t%s\t%s\n' "$2" "$3" 20
        printf 'openvino\tu8\t%s\t%s\t%s\n' "$2" "$3" 30
    done
    printf 'kvlab\talone\tk8v4_of_read\t4096\t0.6\nkvlab\talone\tslack\t512\t0.0625\nkvlab\talone\tslack\t4096\t0.125\nkvlab\talone\tf16_to_k4v2\t32768\t4\n'
} >"$work/peers/times.tsv"
row() { expect "$1" 0 "^$2 *$3\$" bash "$(dirname "$0")/../../bench/peers.sh" -T -d "$work/peers" "$work/tiny.gguf"; }
row "the best of all peers counts" "decode, empty cache, best peer" "1.6 *2.4 *2.00  met"
row "8 bits are q8_0 and u8" "decode 4k, K8V4, best 8-bit peer" "3.5 *5.5 *2.67  MISSED"
row "the deepest decode beyond 7000 tokens is that of 8k" "decode 8k (8000), K8V4, best uncompressed peer" "3 *5 *0.60  MISSED"
row "one engine alone" "prefill 1k, OpenVINO" "1 *1.5 *33.33  aim met"
row "one cache of one engine" "prefill 4k into K8V4, llama.cpp q8_0" "12 *18 *28.50  aim met"
row "shares are met from above" "kernel K8V4 / read bandwidth, 4k" "0.5 *0.7 *0.60  met"
row "times and slack from below" "time K4V2 / time f16, 32k, 2 threads" "0.45 *0.3 *0.25  aim met"
row "slack that is too much" "slack + tables / live, K8V4 + K4V2, 4k, %" "5 *3 *8.00  MISSED"
row "slack between must and aim" "slack + tables / live, K8V4 + K4V2, 512, %" "20 *14 *16.00  met"
row "not measured" "experiments/demo.yaml, minutes" "5 *2.5 *-  not measured in this run"
finish
