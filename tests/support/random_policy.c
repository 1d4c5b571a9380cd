#include "tests/support/random_policy.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define ONE_OF(r, ...) pick(r, (const char *const[]){__VA_ARGS__}, (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

static const char *pick(rng *r, const char *const *of, int n) { return of[rng_below(r, (uint32_t)n)]; }
static int below(rng *r, int n) { return (int)rng_below(r, (uint32_t)n); }
static bool chance(rng *r, int percent) { return below(r, 100) < percent; }

__attribute__((format(printf, 2, 3))) static void add(char *out, const char *fmt, ...) {
    size_t used = strlen(out);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out + used, RANDOM_POLICY_BYTES - used, fmt, ap);
    va_end(ap);
}

static const char *group(rng *r) { return ONE_OF(r, "mean", "max", "sum"); }
static const char *yes_no(rng *r) { return ONE_OF(r, "true", "false"); }

static void add_score(rng *r, char *out) {
    switch (below(r, 13)) {
    case 12:
        add(out, ", score: {biased: {of: {%s}, from: [0, %d], bias: [%g, 0], weight: %g}}", ONE_OF(r, "window: {rows: 9, force_window: false}",
            "window: {rows: 8, force_window: false, live: add, reduce: mean}", "column: {live: true}", "key_norm"), 1 + below(r, 90), below(r, 5) / 4.0 - 0.5, below(r, 3) * 0.5);
        break;
    case 11: add(out, ", score: {mean_rank: {expected: {sinks: %d}, window: {rows: %d, force_window: %s}}}", below(r, 5), 1 + below(r, 40), yes_no(r)); break;
    case 10:
        add(out, ", score: {significance: {rows: %d, %s}}", below(r, 65), ONE_OF(r, "group: mean", "order: max_of_sum", "order: sum_of_max"));
        break;
    case 0:
    case 1: {
        const char *live = ONE_OF(r, "none", "none", "add", "max", "last");
        add(out, ", score: {window: {rows: %d, power: %d, reduce: %s, pool: %s, width: %d, direction: %s, group: %s, group_order: %s, sets: %s, "
            "force_window: %s, live: %s}}", 1 + below(r, chance(r, 30) ? 2 : 40), 1 + below(r, 2), ONE_OF(r, "sum", "sum", "mean", "max"),
            ONE_OF(r, "none", "avg", "max"), 1 + 2 * below(r, 4), ONE_OF(r, "centred", "forward"), group(r), ONE_OF(r, "before", "after"),
            ONE_OF(r, "head", "head", "layer"), *live == 'n' || chance(r, 10) ? yes_no(r) : "false", live);
        break;
    }
    case 2:
    case 3:
        add(out, ", score: {column: {reduce: %s, power: %d, lag: %d, group: %s, live: %s}}", ONE_OF(r, "sum", "mean", "max"), 1 + below(r, 2),
            chance(r, 70) ? 0 : below(r, 12), group(r), yes_no(r));
        break;
    case 4:
        add(out, ", score: {output_change: {rows: %d, pool: %s, width: %d, group: %s}}", 1 + below(r, 40), ONE_OF(r, "none", "avg", "max"),
            1 + 2 * below(r, 4), group(r));
        break;
    case 5:
        add(out, ", score: {expected: {sinks: %d, future: %d, covariance: %s, value_norm: %s, epsilon: %g, group: %s}}", below(r, 6),
            1 + below(r, 40), yes_no(r), yes_no(r), below(r, 2) * 0.01, group(r));
        break;
    case 6: add(out, ", score: {probe: {chunk: %d, sinks: %d}}", 16 + below(r, 90), below(r, 6)); break;
    case 7: add(out, ", score: %s", ONE_OF(r, "key_norm", "key_diff", "{key_diff: {anchor: raw}}", "{key_diff: {block: 20}}")); break;
    case 8: add(out, ", score: random"); break;
    default: add(out, ", score: recency"); break;
    }
}

static void add_quota(rng *r, char *out) {
    switch (below(r, 8)) {
    case 7: add(out, ", quota: profile"); break;
    case 6:
        add(out, ", quota: {pages: {chunk: %d, price: %s, over: %s, count: %s, least: %d%s}}", below(r, 3) * 8, ONE_OF(r, "max", "sum", "mean"),
            ONE_OF(r, "sequence", "layer", "head"), ONE_OF(r, "auto", "auto", "pages", "items", "excess"), below(r, 3),
            chance(r, 20) ? ", control_layers: [0]" : "");
        break;
    case 0: add(out, ", quota: %s", ONE_OF(r, "fixed", "{fixed: {skip: 1}}", "none")); break;
    case 1:
        add(out, ", quota: {adaptive: {mode: %s, alpha: %g, normalize: %s, skip: %d}}", ONE_OF(r, "blend", "floor"), below(r, 11) / 10.0, yes_no(r),
            chance(r, 70) ? 0 : below(r, 3));
        break;
    case 2: add(out, ", quota: {adaptive: {mode: blend, rounding: %s, alpha: %g}}", ONE_OF(r, "source", "exact"), below(r, 11) / 10.0); break;
    case 3: add(out, ", quota: {pyramid: {mode: %s, beta: %d}}", ONE_OF(r, "exact", "factory", "kvpress"), 1 + below(r, 30)); break;
    case 4: add(out, ", quota: {global: {over: %s, count: %s}}", ONE_OF(r, "sequence", "layer"), ONE_OF(r, "kept", "kept", "evicted")); break;
    default: break;
    }
}

static void add_select(rng *r, char *out) {
    switch (below(r, 8)) {
    case 6:
    case 7:
        add(out, ", select: {kvcrush: {%s: %g, unit: %d, unit_score: %s, signature: %s, bits: %s, scope: %s, anchor: %s, anchor_scope: %s, eligible: %s, "
            "accounting: %s, control: %s}}", chance(r, 80) ? "representatives" : "coverage", below(r, 9) / 8.0, 1 + below(r, chance(r, 50) ? 1 : 20),
            chance(r, 80) ? "sum" : "per_query", ONE_OF(r, "head", "head", "head_sum", "query_head"), ONE_OF(r, "top_fraction", "retained", "base"),
            ONE_OF(r, "all", "unimportant"), ONE_OF(r, "mean", "random", "alternating", "zeros"), ONE_OF(r, "item", "unit"),
            ONE_OF(r, "head", "union", "head0", "base"), chance(r, 80) ? "inside" : "on_top", ONE_OF(r, "none", "none", "random", "position"));
        break;
    case 0: add(out, ", select: {top_k: {ties: %s}}", ONE_OF(r, "low", "high")); break;
    case 1:
        add(out, ", select: {critical: {first: %g, epsilon: %g, norm: %s, forced: %s}}", below(r, 5) / 4.0, below(r, 2) * 1e-3, ONE_OF(r, "l1", "l2"),
            ONE_OF(r, "first", "score"));
        break;
    case 2: add(out, ", select: %s", chance(r, 20) ? "all" : "top_k"); break;
    default: break;
    }
}

static void add_tiers(rng *r, char *out, bool *has_recent, bool *has_sink) {
    static const char *const single[] = {"f32", "f16", "f16", "k8v8", "k8v4", "k4v2", "k4v4r", "k8v4g32", "q8_0", "k4cv4g32"};
    static const char *const ladders[][3] = {{"f16", "k8v4", "k4v2"}, {"f16", "k8v8", "k4v4"}, {"f32", "f16", "k8v4"}, {"f16", "k8v4r", "k4v2r"},
                                             {"f16", "k4cv4g32", "k8v4"}, {"k8v8", "k8v4", "k2v1"}, {"k4v2", "k8v4", "f16"}};
    const char *const *l = ladders[below(r, 7)];
    int n = 1 + below(r, 3);
    if (n == 1) {
        if (chance(r, 70)) add(out, ", tiers: [%s]", pick(r, single, 10));
        return;
    }
    const char *last = l[n - 1], *any = l[below(r, n)];
    add(out, ", tiers: [%s, %s%s%s]", l[0], l[1], n == 3 ? ", " : "", n == 3 ? l[2] : "");
    int how = n == 2 ? below(r, 3) : 1 + below(r, 2);
    if (how == 0) add(out, ", tier: {uniform: {format: %s}}", last);
    if (how == 1) {
        add(out, ", tier: {by_flag: {important: %s", last);
        *has_recent = n == 3 || chance(r, 50);
        *has_sink = n == 3 || chance(r, 50);
        if (*has_recent) add(out, ", recent: %s", chance(r, 70) ? l[0] : any);
        if (*has_sink) add(out, ", sink: %s", l[1]);
        add(out, "}}");
    }
    if (how == 2 && n == 2) add(out, ", tier: {by_rank: {shares: {%s: 0.25, %s: 0.75}, after_recent: %s}}", l[0], l[1], any);
    if (how == 2 && n == 3) add(out, ", tier: {by_rank: {shares: {%s: 0.2, %s: 0.3, %s: 0.5}, after_recent: %s}}", l[0], l[1], l[2], last);
}

void random_policy(rng *r, char out[RANDOM_POLICY_BYTES]) {
    bool has_recent = false, has_sink = false;
    strcpy(out, "{positions: ");
    add(out, chance(r, 8) ? "slot" : "absolute");
    if (chance(r, 92)) {
        const char *decode = chance(r, 75) ? "" : ONE_OF(r, ", decode: fixed", ", decode: proportional");
        int unit = below(r, 5);
        if (unit == 4) add(out, ", budget: {rate: %g, floor: %d, step: %d%s}", 1 + below(r, 40) / 4.0, 1 + below(r, 60), 1 + below(r, 20), decode);
        if (unit == 0) add(out, ", budget: {ratio: %g%s}", (1 + below(r, 100)) / 100.0, decode);
        if (unit == 1) add(out, ", budget: {tokens: %d%s}", 1 + below(r, 140), decode);
        if (unit == 2) add(out, ", budget: {bytes: %g%s}", (1 + below(r, 100)) / 100.0, decode);
        if (unit == 3) add(out, ", budget: {pages: %d%s}", 1 + below(r, 12), decode);
    }
    if (chance(r, 95)) add_score(r, out);
    add_quota(r, out);
    add_select(r, out);
    add_tiers(r, out, &has_recent, &has_sink);
    int sink = has_sink ? 1 + below(r, 5) : chance(r, 60) ? 0 : below(r, 6), recent = has_recent ? 1 + below(r, 40) : chance(r, 40) ? 0 : below(r, 40);
    if (sink || recent) add(out, ", protect: {sink: %d, recent: %d}", sink, recent);
    if (chance(r, 75))
        add(out, ", trigger: {prefill: %s, %s: %d}", chance(r, 80) ? "true" : "false", ONE_OF(r, "slack", "every"), 1 + below(r, chance(r, 50) ? 2 : 20));
    add(out, "}");
}

int random_policy_sides(const char *message) {
    static const char *const names[] = {
        "budget", "score", "quota", "select", "tier ", "tiers", "trigger", "prefill", "skip", "block", "bytes", "pages", "tokens", "ratio", "slack", "every", "protect", "sink", "recent", "positions",
        "live", "coverage", "accounting", "query_head", "per_query", "units of",
        "control_layers", "layers", "profile", "head_dim", "force_window", "reduce", "lag", "count: evicted", "rounding", "mode:", "decode", "f16", "k8v", "k4v", "k4cv4g32"};
    int n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) n += strstr(message, names[i]) != NULL;
    return n;
}
