/* Head profiles: the curves against sorting by hand, the file there and back, and prompts decided by quota profile, score mean_rank and
 * tier by_rank over the sequence against the definitions, carried out naively on whole arrays. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/mem.h"
#include "base/rng.h"
#include "policy/profile.h"
#include "policy/topk.h"
#include "tests/support/policies.h"
#include "tests/support/profiles.h"
#include "tests/support/seed.h"
#include "tests/support/temp.h"

enum { MAX_LAYERS = 3, MAX_KV = 3, MAX_HEADS = MAX_LAYERS * MAX_KV, MAX_N = 90, N_CASES = 600 };
static const char sha[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* ---- file ---- */

static void a_profile_comes_back_as_it_was_written(void **state) {
    rng r = rng_make(seed_get(), 1);
    head_profile *p = random_profile(&r, 3, 2, sha), *back;
    const char *path = temp_path("there.profile");
    assert_int_equal(head_profile_write(path, p), OK);
    assert_int_equal(head_profile_read(path, &back), OK);
    assert_int_equal(back->n_layers, 3);
    assert_int_equal(back->n_kv, 2);
    assert_string_equal(back->model_sha256, sha);
    assert_string_equal(back->origin, "random");
    assert_true(back->checksum == p->checksum);
    assert_memory_equal(back->table, p->table, 6 * PROFILE_POINTS * sizeof *p->table);
    head_profile_free(back);
    head_profile_free(p);
}

static void assert_bad(const char *text, size_t n, const char *says) {
    head_profile *p = NULL;
    const char *path = temp_path("bad.profile");
    assert_int_equal(io_write_file(path, text, n), OK);
    err e = head_profile_read(path, &p);
    if (e != ERR_FORMAT) fail_msg("read, or refused with code %d, where \"%s\" was due", (int)e, says);
    if (!strstr(err_text(), says) || !strstr(err_text(), "bad.profile:")) fail_msg("\"%s\" does not say \"%s\"", err_text(), says);
}

/* The text with the first `from` replaced by `to`. */
static void assert_bad_edit(const char *text, const char *from, const char *to, const char *says) {
    const char *at = strstr(text, from);
    assert_non_null(at);
    char *edited = mem_sprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_bad(edited, strlen(edited), says);
    mem_free(edited);
}

static void a_damaged_profile_is_refused_with_its_line(void **state) {
    rng r = rng_make(seed_get(), 2);
    head_profile *p = random_profile(&r, 2, 1, sha), *none;
    const char *path = temp_path("whole.profile");
    char *text;
    size_t n;
    assert_int_equal(head_profile_write(path, p), OK);
    assert_int_equal(io_read_file(path, 1 << 20, &text, &n), OK);
    assert_bad("", 0, "ends in the middle");
    assert_bad("hello\n", 6, "not a head profile");
    for (size_t cut = 1; cut < n; cut += 97) {
        head_profile *q = NULL;
        assert_int_equal(io_write_file(temp_path("cut.profile"), text, cut), OK);
        assert_int_equal(head_profile_read(temp_path("cut.profile"), &q), ERR_FORMAT);
    }
    assert_bad_edit(text, "model 0", "model x", "64 hexadecimal digits");
    assert_bad_edit(text, "layers 2", "layers 0", "must lie in");
    assert_bad_edit(text, "layers 2", "layers 60000", "more than the file holds");
    assert_bad_edit(text, "heads 1", "heads one", "not a number");
    assert_bad_edit(text, "points 512", "points 511", "must lie in");
    assert_bad_edit(text, "\n1 0 ", "\n0 1 ", "is due");
    assert_bad_edit(text, "\n1 0 ", "\n1 0 65535 ", "");
    assert_bad_edit(text, "origin random", "origin randon", "checksum");
    char *longer = mem_sprintf("%s\n", text);
    assert_bad(longer, n + 1, ""); /* the checksum's line is no longer the last */
    mem_free(longer);
    assert_int_equal(head_profile_read(temp_path("absent.profile"), &none), ERR_ENV);
    mem_free(text);
    head_profile_free(p);
}

/* ---- calibration ---- */

static void curves_are_global_ranks_of_sorted_heads(void **state) {
    rng r = rng_make(seed_get(), 3);
    for (int round = 0; round < 40; round++) {
        int n_layers = 1 + (int)rng_below(&r, MAX_LAYERS), n_kv = 1 + (int)rng_below(&r, MAX_KV), n_heads = n_layers * n_kv, n_texts = 1 + (int)rng_below(&r, 3);
        double want[MAX_HEADS][PROFILE_POINTS] = {{0}};
        int seen[MAX_HEADS] = {0};
        profile_builder *b;
        assert_int_equal(profile_builder_create(n_layers, n_kv, &b), OK);
        for (int t = 0; t < n_texts; t++) {
            static uint64_t key[MAX_HEADS][MAX_N];
            uint64_t *keys[MAX_HEADS];
            int n_of[MAX_HEADS], n_all = 0;
            for (int h = 0; h < n_heads; h++) {
                keys[h] = key[h];
                n_all += n_of[h] = rng_below(&r, 5) ? (int)rng_below(&r, MAX_N) : 0;
                for (int i = 0; i < n_of[h]; i++) key[h][i] = rng_u64(&r) << 16 | (uint64_t)(h * MAX_N + i);
            }
            for (int h = 0; h < n_heads; h++) {
                double place[MAX_N];
                for (int i = 0; i < n_of[h]; i++) {
                    int own = 0, all = 0;
                    for (int g = 0; g < n_heads; g++)
                        for (int j = 0; j < n_of[g]; j++) {
                            all += key[g][j] > key[h][i];
                            own += g == h && key[g][j] > key[h][i];
                        }
                    place[own] = all;
                }
                for (int j = 0; j < PROFILE_POINTS && n_of[h]; j++) {
                    double at = (j + 0.5) / PROFILE_POINTS * n_of[h] - 0.5, x;
                    if (at < 0) at = 0;
                    if (at > n_of[h] - 1) at = n_of[h] - 1;
                    x = place[(int)at];
                    if ((int)at < n_of[h] - 1) x += (at - (int)at) * (place[(int)at + 1] - place[(int)at]);
                    want[h][j] += (x + 0.5) / n_all;
                }
                seen[h] += n_of[h] > 0;
            }
            assert_int_equal(profile_builder_add(b, keys, n_of), OK);
        }
        head_profile *p;
        assert_int_equal(profile_builder_finish(b, sha, "made", &p), OK);
        for (int h = 0; h < n_heads; h++)
            for (int j = 0; j < PROFILE_POINTS; j++) {
                double x = seen[h] ? want[h][j] / seen[h] * 65535 : 65535;
                if (fabs(p->table[h * PROFILE_POINTS + j] - x) > 0.5001) fail_msg("round %d, head %d, point %d: %u, not %g", round, h, j, p->table[h * PROFILE_POINTS + j], x);
            }
        head_profile_free(p);
        profile_builder_destroy(b);
    }
}

/* ---- decisions ---- */

typedef struct setup {
    policy_shape shape;
    int n, sink, recent, rows, quota; /* quota: profile, global */
    double ratio, share[2];
    bool joined, over_sequence;
} setup;

static void make_setup(rng *r, setup *s) {
    int n_kv = 1 + (int)rng_below(r, MAX_KV);
    *s = (setup){.shape = {.n_layers = 1 + (int)rng_below(r, MAX_LAYERS), .n_heads = n_kv * (1 + (int)rng_below(r, 4)), .n_kv = n_kv, .head_dim = 64, .context = MAX_N, .model_sha256 = sha},
                 .n = 1 + (int)rng_below(r, MAX_N), .sink = (int)rng_below(r, 5), .recent = (int)rng_below(r, 12), .rows = 1 + (int)rng_below(r, 32),
                 .quota = rng_below(r, 4) == 0, .ratio = (1 + (int)rng_below(r, 100)) / 100.0, .joined = rng_below(r, 2), .over_sequence = rng_below(r, 3) > 0};
    s->share[0] = (1 + (int)rng_below(r, 8)) / 10.0;
    s->share[1] = (1 - s->share[0]) * (1 + (int)rng_below(r, 9)) / 10.0;
}

static policy *make_policy(const setup *s, const char *profile) {
    char yaml[1200], window[120], score[300], quota[300];
    snprintf(window, sizeof window, "window: {rows: %d, group: max, force_window: false}", s->rows);
    snprintf(score, sizeof score, "%s%s%s", s->joined ? "{mean_rank: {key_norm: {}, " : "{", window, s->joined ? "}}" : "}");
    snprintf(quota, sizeof quota, "{profile: {file: %s}}", profile);
    snprintf(yaml, sizeof yaml,
             "{budget: {ratio: %.17g}, tiers: [k8v4r, k4v4r, k4v2r], protect: {sink: %d, recent: %d}, score: %s, quota: %s, select: top_k,\n"
             " tier: {by_rank: {over: %s, shares: {k8v4r: %.17g, k4v4r: %.17g, k4v2r: %.17g}}}}",
             s->ratio, s->sink, s->recent, score, s->quota ? "global" : quota, s->over_sequence ? "sequence" : "head", s->share[0], s->share[1],
             1 - s->share[0] - s->share[1]);
    return policy_from_text(s->shape, yaml);
}

static bool kept_always(const setup *s, int i) { return i < s->sink || i >= s->n - s->recent; }

/* Items of one head that are better; among equals the lower position is. */
static int rank_of(const setup *s, const float *x, int i, bool all) {
    int rank = 0;
    for (int j = 0; j < s->n; j++) rank += (all || !kept_always(s, j)) && (x[j] > x[i] || (x[j] == x[i] && j < i));
    return rank;
}

static void naive_scores(const setup *s, const float *mass, const float *norm, int kv, float *out) {
    int group = s->shape.n_heads / s->shape.n_kv;
    float window[MAX_N];
    for (int i = 0; i < s->n; i++) {
        window[i] = mass[(kv * group) * s->n + i];
        for (int m = 1; m < group; m++) window[i] = fmaxf(window[i], mass[(kv * group + m) * s->n + i]);
    }
    float small[MAX_N];
    for (int i = 0; i < s->n; i++) small[i] = -norm[kv * s->n + i]; /* key_norm: small norms are important */
    for (int i = 0; i < s->n; i++)
        out[i] = s->joined ? 1 - (float)(rank_of(s, small, i, true) + rank_of(s, window, i, true)) / (2 * (float)s->n) : window[i];
}

static int better(const void *a, const void *b) { return ((const double *)b)[0] > ((const double *)a)[0] ? 1 : -1; }

static void check_case(const setup *s, const head_profile *prof, const policy *p, const policy_layer *layers, float *const *mass, float *const *norm, int round) {
    int n_kv = s->shape.n_kv, n_heads = s->shape.n_layers * n_kv, n = s->n, n_list = 0;
    static double list[MAX_HEADS * MAX_N][2]; /* priority, item: unprotected items of all heads */
    static double value[MAX_HEADS][MAX_N];
    for (int h = 0; h < n_heads; h++) {
        float score[MAX_N];
        naive_scores(s, mass[h / n_kv], norm[h / n_kv], h % n_kv, score);
        int m = 0;
        for (int i = 0; i < n; i++) m += !kept_always(s, i);
        for (int i = 0; i < n; i++) {
            if (kept_always(s, i)) continue;
            int rank = rank_of(s, score, i, false);
            value[h][i] = s->quota ? score[i] : -(double)head_profile_value(prof, h / n_kv, h % n_kv, rank, m) - rank * 1e-7;
            list[n_list][0] = value[h][i] - (s->quota ? (i * n_heads + h) * 1e-13 : (i * n_heads + h) * 1e-11);
            list[n_list++][1] = h * MAX_N + i;
        }
    }
    qsort(list, (size_t)n_list, sizeof *list, better);
    int protect = 0;
    for (int i = 0; i < n; i++) protect += kept_always(s, i);
    int kept = (int)((double)n * (1 - (1 - s->ratio)));
    kept = kept < 1 ? 1 : kept > n ? n : kept;
    if (kept < protect) kept = protect;
    int stay = (kept - protect) * n_heads, wrong = 0, count[3] = {0}, got_stay = 0;
    if (stay > n_list) stay = n_list;
    for (int k = 0; k < n_list; k++) {
        int h = (int)list[k][1] / MAX_N, i = (int)list[k][1] % MAX_N, t = layers[h / n_kv].target[(h % n_kv) * n + i];
        got_stay += t != KV_DROP;
        if (t != KV_DROP) count[t]++;
        int want = KV_DROP;
        if (k < stay && s->over_sequence) want = k < (int)(stay * s->share[0]) ? 0 : k < (int)(stay * (s->share[0] + s->share[1])) ? 1 : 2;
        /* two heads whose curves meet in the last bits of f32 may change places */
        if (k < stay && !s->over_sequence ? t == KV_DROP : t != want) wrong += fabs(list[k][0] - list[k > 0 ? k - 1 : 0][0]) > 3e-5 && fabs(list[k][0] - list[k + 1 < n_list ? k + 1 : k][0]) > 3e-5;
    }
    if (got_stay != stay) fail_msg("round %d: %d items stay, not %d", round, got_stay, stay);
    if (wrong) fail_msg("round %d: %d of %d items are not where the definition puts them: %s", round, wrong, n_list, policy_describe(p));
    if (s->over_sequence && count[0] != (int)(stay * s->share[0])) fail_msg("round %d: %d items in the best tier, not %d", round, count[0], (int)(stay * s->share[0]));
    for (int h = 0; h < n_heads; h++) /* inside a head the order is that of the score, and no survivor is below a dropped one */
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n && !s->quota; j++) {
                int ti = layers[h / n_kv].target[(h % n_kv) * n + i], tj = layers[h / n_kv].target[(h % n_kv) * n + j];
                if (kept_always(s, i)) assert_int_equal(ti, 0);
                else if (!kept_always(s, j) && value[h][i] > value[h][j] && ti > tj) fail_msg("round %d: head %d, item %d is better than %d but in tier %d, not %d", round, h, i, j, ti, tj);
            }
}

static void prompts_are_decided_as_defined(void **state) {
    rng r = rng_make(seed_get(), 4);
    for (int round = 0; round < N_CASES; round++) {
        setup s;
        make_setup(&r, &s);
        head_profile *prof = random_profile(&r, s.shape.n_layers, s.shape.n_kv, sha);
        const char *path = temp_path("case.profile");
        assert_int_equal(head_profile_write(path, prof), OK);
        policy *p = make_policy(&s, path);
        const policy_needs *needs = policy_get_needs(p);
        static float mass_data[MAX_LAYERS][MAX_KV * 4 * MAX_N], norm_data[MAX_LAYERS][MAX_KV * MAX_N];
        static uint8_t target[MAX_LAYERS][MAX_KV * MAX_N];
        float *mass[MAX_LAYERS], *norm[MAX_LAYERS];
        policy_layer layers[MAX_LAYERS] = {{0}};
        for (int l = 0; l < s.shape.n_layers; l++) {
            for (int i = 0; i < s.shape.n_heads * s.n; i++) mass_data[l][i] = (float)rng_below(&r, s.quota ? 1 << 20 : 50) / (s.quota ? 1 << 20 : 50);
            for (int i = 0; i < s.shape.n_kv * s.n; i++) norm_data[l][i] = (float)rng_below(&r, 40);
            mass[l] = mass_data[l];
            norm[l] = norm_data[l];
            layers[l] = (policy_layer){.layer = l, .n = s.n, .target = target[l]};
            for (int k = 0; k < needs->n_signals; k++) layers[l].signal[k] = needs->signals[k].kind == SIGNAL_KEY_NORM ? norm[l] : mass[l];
        }
        policy_state *st;
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        assert_int_equal(policy_prefill(p, st, layers, s.shape.n_layers), OK);
        check_case(&s, prof, p, layers, mass, norm, round);
        policy_state_destroy(st);
        policy_destroy(p);
        head_profile_free(prof);
    }
}

/* ---- configuration ---- */

static void what_does_not_fit_is_refused(void **state) {
    rng r = rng_make(seed_get(), 5);
    head_profile *p = random_profile(&r, 2, 2, sha), *other = random_profile(&r, 3, 2, sha);
    char yaml[400];
    assert_int_equal(head_profile_write(temp_path("fits.profile"), p), OK);
    assert_int_equal(head_profile_write(temp_path("other.profile"), other), OK);
    snprintf(yaml, sizeof yaml, "{budget: 0.5, score: probe,\n quota: {profile: {file: %s}}}", temp_path("other.profile"));
    assert_policy_refused(yaml, 2, "3 layers|2 of 2");
    assert_policy_refused("{budget: 0.5, score: probe,\n quota: profile}", 2, "needs `file`");
    snprintf(yaml, sizeof yaml, "{budget: 0.5, score: probe,\n quota: {profile: {file: %s, flie: 1}}}", temp_path("fits.profile"));
    assert_policy_refused(yaml, 2, "flie");
    assert_policy_refused("{budget: 0.5,\n score: {mean_rank: {probe: {}}}}", 2, "two to 4");
    assert_policy_refused("{budget: 0.5, score: {mean_rank: {probe: {},\n recency: {}}}}", 2, "recency");
    assert_policy_refused("{budget: 0.5, score: probe, tiers: [k8v4, k4v2],\n tier: {by_rank: {over: sequence, shares: {k8v4: 0.5, k4v2: 0.5}}}}", 2, "over: sequence|quota fixed");
    assert_policy_refused("{budget: 0.5, score: probe, quota: global, tiers: [k8v4, k4v2],\n tier: {by_rank: {over: all, shares: {k8v4: 0.5, k4v2: 0.5}}}}", 2, "head and sequence");
    policy_shape wrong = {.n_layers = 2, .n_heads = 4, .n_kv = 2, .head_dim = 64, .context = 256, .model_sha256 = "ff00"};
    node *root = NULL;
    policy *made = NULL;
    snprintf(yaml, sizeof yaml, "{budget: 0.5, score: probe,\n quota: {profile: {file: %s}}}", temp_path("fits.profile"));
    assert_int_equal(node_parse_text(yaml, strlen(yaml), "test", &root), OK);
    assert_int_equal(policy_create(root, wrong, &made), ERR_USAGE);
    assert_non_null(strstr(err_text(), "001122334455"));
    node_free(root);
    head_profile_free(p);
    head_profile_free(other);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_profile_comes_back_as_it_was_written), cmocka_unit_test(a_damaged_profile_is_refused_with_its_line),
        cmocka_unit_test(curves_are_global_ranks_of_sorted_heads), cmocka_unit_test(prompts_are_decided_as_defined),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
