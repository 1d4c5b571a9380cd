/* Signals of the engine on a small model against their formulas in f64. The prompt is no longer than the query tail of a snapshot, so
 * all queries, keys and values of a layer are there to compute from. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/engine_impl.h"
#include "format/rotate.h"
#include "tests/support/engines.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { N = 57 };

typedef struct world {
    engine *e;
    policy *p;
    snapshot *snap;
    seq s; /* only engine and policy are read */
    finish f;
    int layer, i;
    float *out;
} world;

static void compute_body(const par *p, void *arg) {
    world *w = arg;
    snapshot_get_layer(w->snap, p, w->layer, w->e->kh.p, w->e->vh.p);
    par_barrier(p);
    signal_compute(p, &w->f, w->layer, w->i, w->out);
}

static world open_world(const char *yaml) {
    world w = {.e = tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_EXACT, 2, "cpu", "auto")};
    int32_t ids[N];
    w.p = policy_from_text(engine_policy_shape(w.e), yaml);
    random_ids(ids, N, engine_model(w.e)->p.n_vocab, seed_get());
    assert_ok(engine_declare(w.e, w.p));
    assert_ok(engine_snapshot(w.e, ids, N, &w.snap));
    assert_ok(finish_reserve(w.e, w.p, N, 1));
    w.out = malloc(sizeof(float) * (size_t)w.e->m->p.n_heads * N);
    return w;
}

static void close_world(world *w) {
    free(w->out);
    snapshot_destroy(w->snap);
    policy_destroy(w->p);
    engine_close(w->e);
}

/* Signal i of a layer. */
static void compute(world *w, int layer, int i) {
    const model_params *mp = &w->e->m->p;
    const policy_needs *need = policy_get_needs(w->p);
    size_t row = (size_t)mp->n_heads * (size_t)mp->head_dim;
    w->s = (seq){.e = w->e, .pol = w->p};
    w->layer = layer;
    w->i = i;
    w->f = (finish){.s = &w->s, .n_tokens = N, .n_tail = w->snap->n_tail, .k = w->e->kh.p, .v = w->e->vh.p, .ld_lse = (size_t)w->snap->n_tail,
                    .q_tail = w->snap->q_tail + (size_t)layer * N * row, .o_tail = w->snap->o_tail + (size_t)layer * N * row,
                    .lse_tail = w->snap->lse_tail + (size_t)layer * (size_t)mp->n_heads * N};
    if (statistic_needed(&need->signals[i])) {
        unsigned char key[SNAPSHOT_KEY_BYTES];
        statistic_key(&need->signals[i], key);
        const snapshot_stat *st = snapshot_find_stat(w->snap, key);
        assert_non_null(st); /* declared before the snapshot */
        w->f.stat[i] = st->data;
        w->f.stat_stride[i] = st->n_floats;
    }
    par_run(w->e->threads, compute_body, w);
}

static void assert_near(const char *what, int layer, int at, float have, double want, double bound) {
    if (!(fabs((double)have - want) <= bound)) fail_msg("%s: layer %d, entry %d has %g, f64 %g", what, layer, at, (double)have, want);
}

static double dot(const float *a, const float *b, int n) {
    double s = 0;
    for (int i = 0; i < n; i++) s += (double)a[i] * (double)b[i];
    return s;
}

static void key_and_value_signals_agree_with_f64(void **state) {
    world w = open_world("{budget: 0.5, score: key_norm, select: {critical: {norm: l1}}}");
    world c = open_world("{budget: 0.5, score: key_diff, select: {critical: {norm: l2}}}");
    const model_params *mp = &w.e->m->p;
    int d = mp->head_dim, group = mp->n_heads / mp->n_kv, q_dim = mp->n_heads * d;
    float *wo = malloc(sizeof(float) * (size_t)(mp->n_embd * q_dim));
    for (int layer = 0; layer < mp->n_layers; layer++) {
        compute(&w, layer, 0);
        const float *k = w.e->kh.p, *v = w.e->vh.p;
        for (int j = 0; j < mp->n_kv * N; j++) {
            double want = sqrt(dot(k + j * d, k + j * d, d));
            assert_near("key norm", layer, j, w.out[j], want, 1e-6 * want);
        }
        compute(&c, layer, 0);
        for (int h = 0; h < mp->n_kv; h++) {
            double mean[256] = {0};
            for (int t = 0; t < N; t++)
                for (int i = 0; i < d; i++)
                    mean[i] += (double)k[(h * N + t) * d + i] / sqrt(dot(k + (h * N + t) * d, k + (h * N + t) * d, d)) / N;
            for (int t = 0; t < N; t++) {
                double ka = 0, aa = 0;
                for (int i = 0; i < d; i++) ka += mean[i] * (double)k[(h * N + t) * d + i], aa += mean[i] * mean[i];
                assert_near("key cosine", layer, h * N + t, c.out[h * N + t], ka / sqrt(aa) / sqrt(dot(k + (h * N + t) * d, k + (h * N + t) * d, d)), 2e-6);
            }
        }
        for (int r = 0; r < mp->n_embd; r++) model_output_row(w.e->m, layer, r, wo + r * q_dim);
        compute(&w, layer, 1);
        compute(&c, layer, 1);
        for (int h = 0; h < mp->n_heads; h++)
            for (int t = 0; t < N; t++) {
                double l1 = 0, l2 = 0;
                for (int r = 0; r < mp->n_embd; r++) {
                    double y = dot(wo + r * q_dim + h * d, v + (h / group * N + t) * d, d);
                    l1 += fabs(y);
                    l2 += y * y;
                }
                assert_near("L1 of Wo v", layer, h * N + t, w.out[h * N + t], l1, 1e-5 * l1 + 1e-7);
                assert_near("L2 of Wo v", layer, h * N + t, c.out[h * N + t], sqrt(l2), 1e-5 * sqrt(l2) + 1e-7);
            }
    }
    free(wo);
    close_world(&w);
    close_world(&c);
}

/* Attention from rows N - rows .. N - 1 at least `lag` later, of each query head or (largest) of each row the most of its group. */
static void columns_agree(const char *yaml, int rows, int lag, bool largest) {
    world w = open_world(yaml);
    const model_params *mp = &w.e->m->p;
    int d = mp->head_dim, group = mp->n_heads / mp->n_kv, per_out = largest ? group : 1;
    for (int layer = 0; layer < mp->n_layers; layer++) {
        compute(&w, layer, 0);
        const float *k = w.e->kh.p;
        for (int out = 0; out < mp->n_heads / per_out; out++) {
            double column[N] = {0};
            for (int i = N - rows; i < N; i++) {
                double most[N] = {0};
                for (int h = out * per_out; h < (out + 1) * per_out; h++) {
                    const float *q = w.f.q_tail + (i * mp->n_heads + h) * d;
                    double p[N], sum = 0;
                    for (int t = 0; t <= i; t++) sum += p[t] = exp((double)mp->attn_scale * dot(q, k + (h / group * N + t) * d, d));
                    for (int t = 0; t <= i - lag; t++) most[t] = fmax(most[t], p[t] / sum);
                }
                for (int t = 0; t < N; t++) column[t] += most[t];
            }
            for (int t = 0; t < N; t++) assert_near(yaml, layer, out * N + t, w.out[out * N + t], column[t], 5e-5 * column[t]);
        }
    }
    close_world(&w);
}

/* Who stays when the keys at[0 .. n - 1] of a head are reduced to `kept`: those least like their mean. */
static int reduce_keys(const float *k, int d, int *at, int n, int kept, bool unit) {
    double mean[256] = {0}, cosine[N];
    for (int i = 0; i < n; i++)
        for (int c = 0; c < d; c++) mean[c] += (double)k[at[i] * d + c] / (unit ? sqrt(dot(k + at[i] * d, k + at[i] * d, d)) : 1);
    for (int i = 0; i < n; i++) {
        double ka = 0;
        for (int c = 0; c < d; c++) ka += mean[c] * (double)k[at[i] * d + c];
        cosine[i] = ka / sqrt(dot(k + at[i] * d, k + at[i] * d, d));
    }
    for (; n > kept; n--) { /* the one most like it goes, the later one among equals */
        int worst = 0;
        for (int i = 1; i < n; i++)
            if (cosine[i] >= cosine[worst]) worst = i;
        for (int i = worst; i + 1 < n; i++) at[i] = at[i + 1], cosine[i] = cosine[i + 1];
    }
    return n;
}

static void keys_unlike_the_others_stay_block_by_block(void **state) {
    const struct { const char *yaml; int kept, block; bool unit; } cases[] = {
        {"{budget: {tokens: 11}, score: {key_diff: {block: 7}}}", 11, 7, true},
        {"{budget: {tokens: 5}, score: {key_diff: {block: 30, anchor: raw}}}", 5, 30, false},
        {"{budget: {tokens: 40}, score: {key_diff: {block: 1}}}", 40, 1, true},
        {"{budget: {tokens: 57}, score: {key_diff: {block: 9}}}", N, 9, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w = open_world(cases[i].yaml);
        const model_params *mp = &w.e->m->p;
        for (int layer = 0; layer < mp->n_layers; layer++) {
            compute(&w, layer, 0);
            for (int h = 0; h < mp->n_kv; h++) {
                int at[N], have = 0;
                for (int seen = 0; seen < N;) {
                    for (int upto = seen == 0 ? cases[i].kept : seen + cases[i].block; seen < upto && seen < N; seen++) at[have++] = seen;
                    have = reduce_keys((const float *)w.e->kh.p + h * N * mp->head_dim, mp->head_dim, at, have, cases[i].kept, cases[i].unit);
                }
                for (int t = 0, next = 0; t < N; t++) {
                    bool stays = next < have && at[next] == t;
                    next += stays;
                    if (stays != (w.out[h * N + t] <= 1.001f)) fail_msg("%s: layer %d, head %d, position %d", cases[i].yaml, layer, h, t);
                }
            }
        }
        close_world(&w);
    }
}

static void column_sums_agree_with_f64(void **state) {
    columns_agree("{budget: 0.5, score: {column: {lag: 3}}}", N, 3, false);
    columns_agree("{score: {significance: {rows: 0, own: false, order: sum_of_max}}, select: threshold}", N, 1, true);
    columns_agree("{score: {significance: {rows: 20, order: sum_of_max}}, select: threshold}", 20, 0, true);
    columns_agree("{score: {significance: {rows: 20}}, select: threshold}", 20, 0, false);
}

/* What water-filling asks for: |q|^2 of the last rows, sum of p^2 |v - o|^2, and the squared errors of K and V in each tier. */
static void distortion_signals_agree_with_f64(void **state) {
    enum { ROWS = 20 };
    world w = open_world("{budget: {bytes: 0.3}, decide: {water_filling: {rows: 20}}, tiers: [k8v4r, k4v2]}");
    const model_params *mp = &w.e->m->p;
    const policy_needs *need = policy_get_needs(w.p);
    int d = mp->head_dim, group = mp->n_heads / mp->n_kv, n_checked = 0;
    for (int i = 0; i < need->n_signals; i++) {
        const signal_request *r = &need->signals[i];
        compute(&w, 1, i);
        const float *k = w.e->kh.p, *v = w.e->vh.p;
        for (int h = 0; h < mp->n_heads && (r->kind == SIGNAL_QUERY_NORM || r->kind == SIGNAL_WINDOW_SPREAD); h++) {
            double spread[N] = {0};
            n_checked++;
            for (int row = N - ROWS; row < N; row++) {
                const float *q = w.f.q_tail + (row * mp->n_heads + h) * d, *o = w.f.o_tail + (row * mp->n_heads + h) * d;
                double p[N], sum = 0;
                if (r->kind == SIGNAL_QUERY_NORM)
                    assert_near("query norm", 1, row, w.out[h * N + row - (N - ROWS)], dot(q, q, d), 1e-5 * dot(q, q, d));
                for (int t = 0; t <= row; t++) sum += p[t] = exp((double)mp->attn_scale * dot(q, k + (h / group * N + t) * d, d));
                for (int t = 0; t <= row; t++) {
                    const float *x = v + (h / group * N + t) * d;
                    spread[t] += p[t] / sum * p[t] / sum * (dot(x, x, d) - 2 * dot(x, o, d) + dot(o, o, d));
                }
            }
            for (int t = 0; t < N && r->kind == SIGNAL_WINDOW_SPREAD; t++) assert_near("spread", 1, h * N + t, w.out[h * N + t], spread[t], 2e-4 * spread[t] + 1e-9);
        }
        if (r->kind != SIGNAL_KEY_ERROR && r->kind != SIGNAL_VALUE_ERROR) continue;
        bool of_key = r->kind == SIGNAL_KEY_ERROR;
        page_layout l;
        assert_ok(page_layout_make(need->tiers[r->tier], d, 0, false, 4096, &l));
        n_checked++;
        for (int t = 0; t < mp->n_kv * N; t++) {
            unsigned char page[4096] = {0};
            float x[256], y[256];
            page_put(&l, page, 0, 1, k + t * d, (size_t)d, v + t * d, (size_t)d, NULL);
            page_get(&l, page, 0, of_key ? y : NULL, of_key ? NULL : y);
            memcpy(x, (of_key ? k : v) + t * d, sizeof(float) * (size_t)d);
            if (l.fmt.rotate) hadamard_rotate(x, d);
            for (int c = 0; c < d; c++) x[c] -= y[c];
            assert_near(of_key ? "key error" : "value error", 1, t, w.out[t], dot(x, x, d), 1e-5 * dot(x, x, d) + 1e-12);
        }
    }
    assert_int_equal(n_checked, 2 * mp->n_heads + 4);
    close_world(&w);
}

/* Queries before RoPE are got back by turning the kept ones by their negative angle. */
static void expected_attention_agrees_with_f64(void **state) {
    enum { FIRST = 4, FUTURE = 40 };
    world w = open_world("{budget: 0.5, score: {expected: {sinks: 4, future: 40, value_norm: false}}}");
    const model_params *mp = &w.e->m->p;
    int d = mp->head_dim, half = mp->rope_dims / 2, group = mp->n_heads / mp->n_kv;
    assert_int_equal(mp->rope_dims, d);
    double *q = malloc(sizeof(double) * (size_t)(N * d)), *cov = malloc(sizeof(double) * (size_t)(d * d)), *turned = malloc(sizeof(double) * (size_t)(d * d));
    for (int layer = 0; layer < mp->n_layers; layer++) {
        compute(&w, layer, 0);
        const float *k = w.e->kh.p;
        for (int h = 0; h < mp->n_heads; h++) {
            double mu[256] = {0}, r_mu[256] = {0}, logit[N], max = -INFINITY, sum = 0;
            double *rot = calloc((size_t)(d * d), sizeof *rot); /* the mean rotation as a whole matrix */
            for (int i = 0; i < half; i++) {
                double theta = pow((double)mp->rope_base, -2.0 * i / d), c = 0, s = 0;
                for (int t = 0; t < FUTURE; t++) c += cos((N + t) * theta) / FUTURE, s += sin((N + t) * theta) / FUTURE;
                rot[i * d + i] = rot[(i + half) * d + i + half] = c;
                rot[i * d + i + half] = -s;
                rot[(i + half) * d + i] = s;
                for (int t = 0; t < N; t++) {
                    const float *x = w.f.q_tail + (t * mp->n_heads + h) * d;
                    q[t * d + i] = (double)x[i] * cos(t * theta) + (double)x[i + half] * sin(t * theta);
                    q[t * d + i + half] = (double)x[i + half] * cos(t * theta) - (double)x[i] * sin(t * theta);
                }
            }
            for (int t = FIRST; t < N; t++)
                for (int i = 0; i < d; i++) mu[i] += q[t * d + i] / (N - FIRST);
            for (int i = 0; i < d; i++)
                for (int j = 0; j < d; j++) {
                    cov[i * d + j] = 0;
                    for (int t = FIRST; t < N; t++) cov[i * d + j] += (q[t * d + i] - mu[i]) * (q[t * d + j] - mu[j]) / (N - FIRST);
                    r_mu[i] += rot[i * d + j] * mu[j];
                }
            for (int t = FIRST; t < N; t++) {
                const float *key = k + (h / group * N + t) * d;
                double linear = 0, quadratic = 0;
                for (int j = 0; j < d; j++) { /* k R, so that k (R C R^T) k = (k R) C (k R) */
                    turned[j] = 0;
                    for (int i = 0; i < d; i++) turned[j] += (double)key[i] * rot[i * d + j];
                    linear += r_mu[j] * (double)key[j];
                }
                for (int i = 0; i < d; i++)
                    for (int j = 0; j < d; j++) quadratic += turned[i] * cov[i * d + j] * turned[j];
                logit[t] = linear / sqrt(d) + quadratic / (2.0 * d);
                max = fmax(max, logit[t]);
            }
            for (int t = FIRST; t < N; t++) sum += exp(logit[t] - max);
            for (int t = 0; t < N; t++) {
                double want = t < FIRST ? 0 : exp(logit[t] - max) / sum;
                assert_near("expected mass", layer, h * N + t, w.out[h * N + t], want, 1e-4 * want);
            }
            free(rot);
        }
    }
    free(q);
    free(cov);
    free(turned);
    close_world(&w);
}

static size_t snapshot_peak(engine *e, const char *yaml) {
    policy *p = policy_from_text(engine_policy_shape(e), yaml);
    int32_t ids[N];
    cache_space *space;
    seq *s;
    random_ids(ids, N, engine_model(e)->p.n_vocab, seed_get());
    assert_ok(cache_space_create(e, p, N, 0, &space));
    assert_ok(seq_create(e, space, p, 1, &s));
    mem_reset_peaks();
    assert_ok(seq_prefill(s, ids, N, NULL));
    size_t peak = mem_peak_bytes(MEM_SNAPSHOT);
    seq_destroy(s);
    cache_space_destroy(space);
    policy_destroy(p);
    return peak;
}

/* Timed runs of a policy over the whole sequence keep the prompt too, but not what other policies of the sweep asked for. */
static void the_real_flow_takes_only_its_own_statistics(void **state) {
    engine *e = tiny_engine(tiny_model_file("tiny.gguf", tiny_model_default()), MATH_EXACT, 2, "cpu", "auto");
    const char *whole = "{budget: 0.5, score: {window: {rows: 8}}, quota: global, tiers: [f32]}";
    size_t alone = snapshot_peak(e, whole);
    (void)snapshot_peak(e, "{budget: 0.5, score: column, tiers: [f32]}"); /* declared by its sequence */
    assert_true(alone > 0);
    assert_int_equal(snapshot_peak(e, whole), alone);
    size_t with = snapshot_peak(e, "{budget: 0.5, score: column, quota: global, tiers: [f32]}");
    assert_true(with > alone); /* its own column sums */
    engine_close(e);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(key_and_value_signals_agree_with_f64),
        cmocka_unit_test(keys_unlike_the_others_stay_block_by_block),
        cmocka_unit_test(column_sums_agree_with_f64),
        cmocka_unit_test(distortion_signals_agree_with_f64),
        cmocka_unit_test(expected_attention_agrees_with_f64),
        cmocka_unit_test(the_real_flow_takes_only_its_own_statistics),
    };
    seed_begin(argc, argv);
    return seed_end(cmocka_run_group_tests_name("engine_signals", tests, NULL, NULL));
}
