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
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { MAX_KV = 4, MAX_HEADS = 16, MAX_N = 130, N_CASES = 3000 };

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

static const char *const signature_text[] = {"query_head", "head", "head_sum"}, *const bits_text[] = {"top_fraction", "retained"},
                  *const scope_text[] = {"all", "unimportant"},
                  *const anchor_text[] = {"mean", "inverse_mean", "random", "zeros", "ones", "alternating"}, *const anchor_scope_text[] = {"item", "unit"},
                  *const order_text[] = {"rising", "falling"}, *const pick_text[] = {"linspace", "floor_step", "bucket"},
                  *const eligible_text[] = {"head", "union", "head0"}, *const control_text[] = {"none", "random", "position"};

typedef struct setup {
    int n_kv, group, n, sink, recent, unit, signature, bits, scope, anchor, anchor_scope, order, pick, eligible, on_top, control, adaptive;
    double rep, fraction, ratio;
    uint64_t seed;
} setup;

static void make_setup(rng *r, setup *s) {
    *s = (setup){.n_kv = 1 + (int)rng_below(r, MAX_KV), .group = 1 + (int)rng_below(r, 4), .n = 1 + (int)rng_below(r, MAX_N),
                 .sink = rng_below(r, 2) ? (int)rng_below(r, 6) : 0, .recent = rng_below(r, 2) ? (int)rng_below(r, 20) : 0,
                 .unit = rng_below(r, 2) ? 1 : 1 + (int)rng_below(r, 17), .signature = (int)rng_below(r, 3), .bits = (int)rng_below(r, 2),
                 .scope = (int)rng_below(r, 2), .anchor = (int)rng_below(r, 6), .anchor_scope = rng_below(r, 4) == 0, .order = (int)rng_below(r, 2),
                 .pick = (int)rng_below(r, 3), .eligible = (int)rng_below(r, 3), .on_top = rng_below(r, 4) == 0,
                 .control = rng_below(r, 5) ? 0 : 1 + (int)rng_below(r, 2), .adaptive = rng_below(r, 3) == 0,
                 .rep = rng_below(r, 6) ? rng_below(r, 101) / 100.0 : 0, .fraction = rng_below(r, 11) / 10.0, .ratio = (1 + (int)rng_below(r, 100)) / 100.0,
                 .seed = rng_u64(r)};
}

static policy *make_policy(const setup *s, const char *select) {
    char yaml[1200], crush[700];
    snprintf(crush, sizeof crush,
             "{kvcrush: {representatives: %.17g, unit: %d, signature: %s, bits: %s, fraction: %.17g, scope: %s, anchor: %s, anchor_scope: %s,\n order: %s, "
             "pick: %s, eligible: %s, accounting: %s, control: %s}}",
             s->rep, s->unit, signature_text[s->signature], bits_text[s->bits], s->fraction, scope_text[s->scope], anchor_text[s->anchor],
             anchor_scope_text[s->anchor_scope], order_text[s->order], pick_text[s->pick], eligible_text[s->eligible], s->on_top ? "on_top" : "inside",
             control_text[s->control]);
    snprintf(yaml, sizeof yaml,
             "{budget: {ratio: %.17g}, protect: {sink: %d, recent: %d}, score: {window: {rows: 4, group: mean, force_window: false}},\n quota: %s, select: %s}",
             s->ratio, s->sink, s->recent, s->adaptive ? "{adaptive: {mode: floor, alpha: 0.3}}" : "fixed", select ? select : crush);
    return policy_from_text((policy_shape){.n_layers = 1, .n_heads = s->n_kv * s->group, .n_kv = s->n_kv, .head_dim = 64, .context = MAX_N}, yaml);
}

static void decide(policy *p, const setup *s, float *mass, uint8_t *target) {
    policy_state *st;
    policy_layer l = {.n = s->n, .signal = {mass}, .target = target};
    assert_int_equal(policy_state_create(p, s->seed, &st), OK);
    assert_int_equal(policy_prefill(p, st, &l, 1), OK);
    policy_state_destroy(st);
}

/* The best `k` of items with in[i], by score, ties to the lower place. */
static void best(const float *x, const bool *in, int n, int k, bool *out) {
    for (int i = 0; i < n; i++) out[i] = false;
    while (k-- > 0) {
        int top = -1;
        for (int i = 0; i < n; i++)
            if (in[i] && !out[i] && (top < 0 || x[i] > x[top])) top = i;
        if (top < 0) return;
        out[top] = true;
    }
}

static void check_case(const setup *s, const float *mass, const uint8_t *got, const int *quota, int round) {
    int n = s->n, heads = s->n_kv * s->group, mid[MAX_N], n_mid = 0;
    static float score[MAX_KV][MAX_N];
    for (int k = 0; k < s->n_kv; k++)
        for (int i = 0; i < n; i++) {
            float sum = 0;
            for (int m = 0; m < s->group; m++) sum += mass[(k * s->group + m) * n + i];
            score[k][i] = sum / (float)s->group;
        }
    for (int i = 0; i < n; i++)
        if (i >= s->sink && i < n - s->recent) mid[n_mid++] = i;
    int n_units = (n_mid + s->unit - 1) / s->unit, room[MAX_KV], reps[MAX_KV], imp[MAX_KV];
    static bool keep[MAX_KV][MAX_N], important[MAX_KV][MAX_N]; /* important: by unit */
    static float unit_score[MAX_KV][MAX_N];
    bool tight = true;
    for (int k = 0; k < s->n_kv; k++) {
        room[k] = quota[k] - (n - n_mid);
        tight &= room[k] <= 0 || quota[k] >= n;
    }
    if (tight) return; /* the base selection decides: no free choice for representatives */
    for (int k = 0; k < s->n_kv; k++) {
        reps[k] = (int)(s->rep * room[k] / s->unit);
        if (reps[k] < 1) reps[k] = s->rep > 0 && room[k] >= s->unit;
        imp[k] = s->on_top ? room[k] : room[k] - reps[k] * s->unit;
        bool all[MAX_N];
        for (int u = 0; u < n_units; u++) {
            unit_score[k][u] = 0;
            for (int j = u * s->unit; j < (u + 1) * s->unit && j < n_mid; j++) unit_score[k][u] += score[k][mid[j]];
            all[u] = true;
        }
        best(unit_score[k], all, n_units, imp[k] / s->unit, important[k]);
        for (int i = 0; i < n; i++) keep[k][i] = i < s->sink || i >= n - s->recent;
        for (int j = 0; j < n_mid; j++) keep[k][mid[j]] = important[k][j / s->unit];
    }
    /* signatures */
    int rows = s->signature == 0 ? heads : s->signature == 1 ? s->n_kv : 1, width = rows * s->unit;
    static bool bit[MAX_N][17 * MAX_HEADS];
    memset(bit, 0, sizeof bit);
    for (int r = 0; r < rows; r++) {
        float x[MAX_N];
        bool in[MAX_N], one[MAX_N];
        int n_in = 0, ones;
        for (int j = 0; j < n_mid; j++) {
            x[j] = s->signature == 0 ? mass[r * n + mid[j]] : s->signature == 1 ? score[r][mid[j]] : 0;
            for (int k = 0; s->signature == 2 && k < s->n_kv; k++) x[j] += score[k][mid[j]];
            in[j] = true;
            for (int k = 0; s->scope && k < s->n_kv; k++) in[j] &= !important[k][j / s->unit];
            n_in += in[j];
        }
        if (s->bits == 0) ones = (int)(s->fraction * n_in);
        else if (s->signature == 2) {
            ones = 0;
            for (int k = 0; k < s->n_kv; k++) ones += imp[k];
            ones /= s->n_kv;
        } else ones = imp[s->signature == 1 ? r : r / s->group];
        best(x, in, n_mid, ones, one);
        for (int j = 0; j < n_mid; j++) bit[j / s->unit][j % s->unit * rows + r] = one[j];
    }
    int distance[MAX_N], order[MAX_N];
    for (int u = 0; u < n_units; u++) {
        int own = 0;
        distance[u] = 0;
        for (int b = 0; b < width; b++) own += bit[u][b];
        for (int b = 0; b < width; b++) {
            int ones = 0, of = n_units;
            for (int v = 0; v < n_units; v++) ones += bit[v][b];
            if (s->anchor_scope) ones = own, of = width;
            bool a = s->anchor == 0 ? 2 * ones > of : s->anchor == 1 ? 2 * ones < of : s->anchor == 4 ? true : s->anchor == 5 ? (s->anchor_scope ? u : b) % 2 : false;
            distance[u] += bit[u][b] != a;
        }
        order[u] = u;
    }
    if (!s->control)
        for (int a = 1; a < n_units; a++) /* insertion: stable */
            for (int b = a; b > 0 && (s->order ? distance[order[b]] > distance[order[b - 1]] : distance[order[b]] < distance[order[b - 1]]); b--) {
                int held = order[b];
                order[b] = order[b - 1];
                order[b - 1] = held;
            }
    bool by_chance = s->control == 1 || (s->anchor == 2 && !s->control);
    for (int k = 0; k < s->n_kv; k++) {
        int list[MAX_N], m = 0, want = quota[k] + (s->on_top ? reps[k] * s->unit : 0);
        if (want > n) want = n;
        if (room[k] <= 0 || quota[k] >= n) continue;
        for (int a = 0; a < n_units; a++) {
            bool taken = important[s->eligible == 2 ? 0 : k][order[a]];
            for (int g = 0; g < s->n_kv; g++) taken |= s->eligible == 1 && important[g][order[a]];
            if (!taken) list[m++] = order[a];
        }
        int r = reps[k] < m ? reps[k] : m;
        for (int i = 0; i < r && !by_chance; i++) {
            int u = list[s->pick == 0 ? (r == 1 ? 0 : i * (m - 1) / (r - 1)) : s->pick == 1 ? i * (m / r) : i * m / r];
            if (s->pick == 2)
                for (int a = i * m / r; a < (i + 1) * m / r; a++)
                    if (unit_score[k][list[a]] > unit_score[k][u]) u = list[a];
            for (int j = u * s->unit; j < (u + 1) * s->unit && j < n_mid; j++) keep[k][mid[j]] = true;
        }
        int n_kept = 0;
        for (int i = 0; i < n; i++) n_kept += got[k * n + i] != KV_DROP;
        if (n_kept != want) fail_msg("round %d: head %d keeps %d items, not %d", round, k, n_kept, want);
        if (by_chance) { /* chance cannot be foretold here: what is certain must stay */
            for (int i = 0; i < n; i++)
                if (keep[k][i] && got[k * n + i] == KV_DROP) fail_msg("round %d: head %d drops item %d, which is protected or important", round, k, i);
            continue;
        }
        for (int i = 0; i < n; i++) want -= keep[k][i];
        bool rest[MAX_N], filled[MAX_N];
        for (int i = 0; i < n; i++) rest[i] = !keep[k][i];
        best(score[k], rest, n, want, filled);
        for (int i = 0; i < n; i++)
            if ((keep[k][i] || filled[i]) != (got[k * n + i] != KV_DROP))
                fail_msg("round %d: head %d item %d of %d: %s, against the definition", round, k, i, n, got[k * n + i] != KV_DROP ? "kept" : "dropped");
    }
}

static void kept_sets_are_those_of_the_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    static float mass[MAX_HEADS * MAX_N];
    static uint8_t got[MAX_KV * MAX_N], base[MAX_KV * MAX_N], again[MAX_KV * MAX_N];
    for (int round = 0; round < N_CASES; round++) {
        setup s;
        make_setup(&r, &s);
        int fine = rng_below(&r, 2) ? 12 : 1 << 20, quota[MAX_KV]; /* coarse: many ties; sums are exact in f32 */
        for (int i = 0; i < s.n_kv * s.group * s.n; i++) mass[i] = (float)rng_below(&r, (uint32_t)fine) / (float)(fine == 12 ? 16 : fine);
        policy *p = make_policy(&s, NULL), *plain = make_policy(&s, "top_k");
        decide(p, &s, mass, got);
        decide(plain, &s, mass, base);
        decide(p, &s, mass, again);
        assert_memory_equal(got, again, (size_t)(s.n_kv * s.n)); /* anchors at random repeat */
        for (int k = 0; k < s.n_kv; k++) { /* the base keeps exactly its quota */
            quota[k] = 0;
            for (int i = 0; i < s.n; i++) quota[k] += base[k * s.n + i] != KV_DROP;
        }
        if (s.rep == 0 && s.unit == 1) assert_memory_equal(got, base, (size_t)(s.n_kv * s.n));
        check_case(&s, mass, got, quota, round);
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
