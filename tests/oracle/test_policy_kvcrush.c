/* KVCrush against its rules carried out naively - arrays of bits, sorting by insertion, linear search - and against the worked example
 * and the unit vectors of its implementations (reference kvcrush.md, 5.4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "policy/signature.h"
#include "tests/support/naive_kvcrush.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { N_CASES = 3000 };

/* ---- vectors of OpenVINO's unit tests ---- */

static signatures from_text(const char *bits, int n_units, int n_bits, uint64_t *words) {
    signatures s = {n_units, n_bits, words};
    memset(words, 0, (size_t)n_units * sizeof *words);
    for (int u = 0; u < n_units; u++)
        for (int i = 0; i < n_bits; i++)
            if (bits[u * n_bits + i] == '1') signature_set(&s, u, i);
    return s;
}

static void assert_distances(const signatures *s, anchor_kind kind, const int *want) {
    int got[16];
    signature_distances(s, kind, 1, 2, got);
    for (int u = 0; u < s->n_units; u++)
        if (got[u] != want[u]) fail_msg("anchor %d, unit %d: distance %d, not %d", (int)kind, u, got[u], want[u]);
}

static void anchors_and_distances_are_those_of_openvino(void **state) {
    uint64_t words[16];
    signatures s = from_text("10101100111000100000", 5, 4, words); /* mean anchor 1010 */
    int want[5];
    for (int u = 0; u < 5; u++) {
        static const char text[] = "10101100111000100000";
        want[u] = 0;
        for (int i = 0; i < 4; i++) want[u] += text[u * 4 + i] != "1010"[i];
    }
    assert_distances(&s, ANCHOR_MEAN, want);
    s = from_text("1010010111001010", 4, 4, words); /* the last is the anchor 1010: distances 0 4 2 */
    for (int u = 0; u < 3; u++) assert_int_equal(__builtin_popcountll(words[u] ^ words[3]), ((int[]){0, 4, 2})[u]);
    const int d[] = {0, 1, 2, 3};
    int order[4];
    signature_order(d, 4, false, order);
    assert_int_equal(order[signature_pick(PICK_FLOOR_STEP, 0, 2, 4)], 0);
    assert_int_equal(order[signature_pick(PICK_FLOOR_STEP, 1, 2, 4)], 2);
    assert_int_equal(signature_pick(PICK_FLOOR_STEP, 1, 2, 2), 1); /* two eligible, both */
}

static void random_anchors_repeat(void **state) {
    uint64_t words[8];
    int a[8], b[8], c[8];
    signatures s = from_text("1010110011100010000010101100110011110000", 8, 5, words);
    signature_distances(&s, ANCHOR_RANDOM, 5, 6, a);
    signature_distances(&s, ANCHOR_RANDOM, 5, 6, b);
    signature_distances(&s, ANCHOR_RANDOM, 5, 7, c);
    assert_memory_equal(a, b, sizeof a);
    bool same = true;
    for (uint64_t stream = 7; stream < 20 && same; stream++) {
        signature_distances(&s, ANCHOR_RANDOM, 5, stream, c);
        same = !memcmp(a, c, sizeof a);
    }
    assert_false(same);
}

/* ---- the worked example, through a policy ---- */

static const float example[32] = {.9f,  .1f,  .2f,  .3f,  .05f, .8f,  .01f, .02f, .7f,  .6f,  .5f,  .4f,  .03f, .04f, .06f, .07f,
                                  .08f, .09f, .11f, .12f, .95f, .13f, .14f, .15f, .16f, .85f, .17f, .18f, .19f, .21f, .22f, .23f};

/* Blocks of four that stay when two are kept for their score, {0, 2}, and two are representatives. */
static void check_example(const char *anchor, const char *pick, const char *want) {
    char yaml[400], got[9] = "";
    snprintf(yaml, sizeof yaml,
             "{budget: {tokens: 16}, score: {window: {rows: 1, force_window: false}},\n"
             " select: {kvcrush: {representatives: 0.5, unit: 4, signature: head_sum, anchor: %s, pick: %s}}}",
             anchor, pick);
    policy *p = policy_from_text((policy_shape){.n_layers = 1, .n_heads = 1, .n_kv = 1, .head_dim = 64, .context = 64}, yaml);
    policy_state *s;
    uint8_t target[32];
    float mass[32];
    memcpy(mass, example, sizeof mass);
    policy_layer l = {.n = 32, .signal = {mass}, .target = target};
    assert_int_equal(policy_state_create(p, 1, &s), OK);
    assert_int_equal(policy_prefill(p, s, &l, 1), OK);
    for (int b = 0; b < 8; b++) {
        for (int i = 1; i < 4; i++) assert_int_equal(target[b * 4 + i], target[b * 4]);
        if (target[b * 4] != KV_DROP) snprintf(got + strlen(got), 3, "%d", b);
    }
    if (strcmp(got, want) != 0) fail_msg("%s, %s: blocks %s stay, not %s", anchor, pick, got, want);
    policy_state_destroy(s);
    policy_destroy(p);
}

static void the_worked_example_keeps_its_blocks(void **state) {
    check_example("zeros", "floor_step", "0235"); /* {0, 2} and {3, 5} */
    check_example("ones", "floor_step", "0257");
    check_example("alternating", "floor_step", "0124");
    check_example("zeros", "linspace", "0237");
    check_example("mean", "linspace", "0237"); /* the mean anchor is 0000 */
}

/* ---- random cases ---- */

typedef struct setup {
    crush_setup crush;
    int n;
    bool adaptive, shared, tiers; /* tiers: representatives in another, so that they are told apart */
    double ratio;
} setup;

static void make_setup(rng *r, setup *s) {
    memset(s, 0, sizeof *s);
    s->crush.n_kv = 1 + (int)rng_below(r, CRUSH_KV);
    s->crush.group = 1 + (int)rng_below(r, CRUSH_GROUP);
    crush_random(r, false, &s->crush);
    s->n = 1 + (int)rng_below(r, CRUSH_N);
    s->shared = rng_below(r, 4) == 0;
    s->adaptive = !s->shared && rng_below(r, 3) == 0;
    s->tiers = rng_below(r, 2);
    s->ratio = (1 + (int)rng_below(r, 100)) / 100.0;
}

static policy *make_policy(const setup *s, const char *select, bool tiers) {
    char yaml[1400], crush[700];
    const crush_setup *c = &s->crush;
    crush_yaml(c, crush, sizeof crush);
    snprintf(yaml, sizeof yaml,
             "{budget: {ratio: %.17g}, protect: {sink: %d, recent: %d}, score: {window: {rows: 4, group: mean, sets: %s, force_window: false}},\n quota: %s, "
             "select: %s%s}",
             s->ratio, c->sink, c->recent, s->shared ? "layer" : "head", s->adaptive ? "{adaptive: {mode: floor, alpha: 0.3}}" : "fixed",
             select ? select : crush, tiers ? ", tiers: [f16, k8v4], tier: {by_flag: {important: f16, representative: k8v4}}" : "");
    return policy_from_text((policy_shape){.n_layers = 1, .n_heads = c->n_kv * c->group, .n_kv = c->n_kv, .head_dim = 64, .context = CRUSH_N}, yaml);
}

static void decide(policy *p, const setup *s, float *mass, uint8_t *target) {
    policy_state *st;
    policy_layer l = {.n = s->n, .signal = {mass}, .target = target};
    assert_int_equal(policy_state_create(p, s->crush.seed, &st), OK);
    assert_int_equal(policy_prefill(p, st, &l, 1), OK);
    policy_state_destroy(st);
}

static void make_case(const setup *s, const float *mass, const int *quota, crush_case *c) {
    int n = s->n, n_kv = s->crush.n_kv, group = s->crush.group;
    memset(c, 0, sizeof *c);
    c->n = c->n_prompt = n;
    c->score_rows = 4;
    for (int k = 0; k < n_kv; k++) {
        c->quota[k] = quota[k];
        for (int i = 0; i < n; i++) {
            float sum = 0;
            for (int m = 0; m < group; m++) sum += c->query[k * group + m][i] = mass[(k * group + m) * n + i];
            c->score[k][i] = sum / (float)group;
            c->here[k][i] = true;
        }
    }
    for (int i = 0; i < n && s->shared; i++) {
        float sum = 0;
        for (int k = 0; k < n_kv; k++) sum += c->score[k][i];
        for (int k = 0; k < n_kv; k++) c->score[k][i] = sum / (float)n_kv;
    }
}

static void check_case(const setup *s, const float *mass, const uint8_t *got, const int *quota, int round) {
    static crush_case c;
    static bool keep[CRUSH_KV][CRUSH_N], rep[CRUSH_KV][CRUSH_N];
    make_case(s, mass, quota, &c);
    crush_naive(&s->crush, &c, keep, rep);
    for (int k = 0; k < s->crush.n_kv; k++)
        for (int i = 0; i < s->n; i++) {
            int want = !keep[k][i] ? KV_DROP : s->tiers && rep[k][i];
            if (got[k * s->n + i] != want) {
                char text[700];
                crush_yaml(&s->crush, text, sizeof text);
                fail_msg("round %d: head %d item %d of %d goes to %d, not %d, with sink %d, recent %d, quota %d\n%s", round, k, i, s->n, got[k * s->n + i], want,
                         s->crush.sink, s->crush.recent, quota[k], text);
            }
        }
}

static void kept_sets_are_those_of_the_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    static float mass[CRUSH_HEADS * CRUSH_N];
    static uint8_t got[CRUSH_KV * CRUSH_N], base[CRUSH_KV * CRUSH_N], again[CRUSH_KV * CRUSH_N];
    for (int round = 0; round < N_CASES; round++) {
        setup s;
        make_setup(&r, &s);
        int n_kv = s.crush.n_kv, n = s.n, fine = rng_below(&r, 2) ? 12 : 1 << 20, quota[CRUSH_KV]; /* coarse: many ties; sums are exact in f32 */
        for (int i = 0; i < n_kv * s.crush.group * n; i++) mass[i] = (float)rng_below(&r, (uint32_t)fine) / (float)(fine == 12 ? 16 : fine);
        policy *p = make_policy(&s, NULL, s.tiers), *plain = make_policy(&s, "top_k", false);
        decide(p, &s, mass, got);
        decide(plain, &s, mass, base);
        decide(p, &s, mass, again);
        assert_memory_equal(got, again, (size_t)(n_kv * n)); /* anchors at random repeat */
        for (int k = 0; k < n_kv; k++) { /* the base keeps exactly its quota */
            quota[k] = 0;
            for (int i = 0; i < n; i++) quota[k] += base[k * n + i] != KV_DROP;
        }
        if (s.crush.rep == 0 && s.crush.unit == 1 && !s.crush.per_query) assert_memory_equal(got, base, (size_t)(n_kv * n));
        check_case(&s, mass, got, quota, round);
        if (s.shared && s.crush.signature == 2)
            for (int k = 1; k < n_kv; k++) assert_memory_equal(got, got + k * n, (size_t)n); /* one set for the layer */
        policy_destroy(p);
        policy_destroy(plain);
    }
}

/* ---- configuration ---- */

static void what_does_not_fit_is_refused(void **state) {
    assert_policy_refused("{budget: 0.5, score: key_norm,\n select: {kvcrush: {signature: query_head}}}", 2, "query_head|score key_norm");
    assert_policy_refused("{budget: {bytes: 0.5}, score: probe,\n select: {kvcrush: {signature: head, accounting: on_top}}}", 2, "on_top|bytes");
    assert_policy_refused("{budget: 0.5, score: probe,\n select: {kvcrush: {signature: head, unit: 65}}}", 2, "unit|64");
    assert_policy_refused("{score: probe,\n select: {kvcrush: {signature: head}}}", 2, "kvcrush|quota none");
    assert_policy_refused("{budget: 0.5, score: probe,\n select: {kvcrush: {signature: head, unit_score: per_query}}}", 2, "per_query|score probe");
    assert_policy_refused("{budget: 0.5, score: {window: {reduce: mean}},\n select: {kvcrush: {unit_score: per_query}}}", 2, "per_query|reduce: sum");
    assert_policy_refused("{budget: 0.5, score: window,\n select: {kvcrush: {coverage: 0.9, representatives: 0.1}}}", 2, "coverage|representatives");
    assert_policy_refused("{budget: 0.5, score: window,\n select: {kvcrush: {coverage: 0.9, accounting: on_top}}}", 2, "coverage|on_top");
    assert_policy_refused("{budget: 0.5, trigger: {slack: 1}, score: {column: {live: true}},\n select: {kvcrush: {signature: query_head}}}", 2,
                          "query_head|column|slack");
    assert_policy_refused("{budget: 0.5, trigger: {slack: 1}, tiers: [f16, k8v4], tier: {uniform: {format: k8v4}}, protect: {recent: 4},\n"
                          " score: {column: {live: true}}, quota: pages,\n select: {kvcrush: {signature: head}}}", 3, "kvcrush|quota pages");
    assert_policy_refused("{budget: 0.5, score: recency, select: {kvcrush: {signature: head}},\n positions: slot}", 2, "slot|kvcrush");
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(anchors_and_distances_are_those_of_openvino), cmocka_unit_test(random_anchors_repeat),
        cmocka_unit_test(the_worked_example_keeps_its_blocks), cmocka_unit_test(kept_sets_are_those_of_the_definition),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
