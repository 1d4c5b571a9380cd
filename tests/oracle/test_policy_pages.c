/* KV-Compress at prefill against its definition, carried out naively: sorted lists, one page at a time from whoever asks least. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "tests/support/policies.h"
#include "tests/support/seed.h"

enum { MAX_N = 150, MAX_KV = 3, MAX_GROUP = 4, MAX_LAYERS = 4, MAX_HEADS = MAX_KV * MAX_LAYERS };

typedef struct setup {
    policy_shape shape;
    int n, n_kv, group, n_layers, n_heads; /* n_heads: KV heads of all layers */
    int full, rows, power, reduce, pool, width, before, group_kind, lag, force;
    int chunk, price, over, count, least; /* price 0 max, 1 sum, 2 mean; over 0 sequence, 1 layer, 2 head; count 0 pages, 1 items, 2 excess */
    int physical, ties_high, sink, recent, control; /* layer that keeps everything, or -1 */
    enum { RATIO, TOKENS, RATE, PAGES } unit;
    double amount;
    int floor_tokens, step;
} setup;

static void make_setup(rng *r, setup *s) {
    static const int chunks[] = {1, 2, 4, 8, 16, 32, 64};
    memset(s, 0, sizeof *s);
    s->n_kv = 1 + (int)rng_below(r, MAX_KV);
    s->group = 1 + (int)rng_below(r, MAX_GROUP);
    s->n_layers = 1 + (int)rng_below(r, MAX_LAYERS);
    s->n_heads = s->n_kv * s->n_layers;
    s->shape = (policy_shape){.n_layers = s->n_layers, .n_heads = s->n_kv * s->group, .n_kv = s->n_kv, .head_dim = 64, .context = MAX_N};
    s->n = 1 + (int)rng_below(r, rng_below(r, 4) ? MAX_N : 12);
    s->full = rng_below(r, 3) == 0;
    s->rows = rng_below(r, 2) ? 8 : 1 + (int)rng_below(r, 40);
    s->power = 1 + (int)rng_below(r, 2);
    s->reduce = (int)rng_below(r, 2);
    s->pool = rng_below(r, 3) ? 2 : (int)rng_below(r, 3);
    s->width = rng_below(r, 2) ? 7 : 1 + 2 * (int)rng_below(r, 6);
    s->before = (int)rng_below(r, 2);
    s->group_kind = rng_below(r, 3) ? 2 : (int)rng_below(r, 3);
    s->lag = rng_below(r, 2) ? 10 : (int)rng_below(r, 20);
    s->force = rng_below(r, 3) == 0;
    s->physical = rng_below(r, 8) == 0;
    s->chunk = rng_below(r, 2) ? chunks[rng_below(r, 7)] : 1 + (int)rng_below(r, 64);
    s->price = (int)rng_below(r, 3);
    s->over = (int)rng_below(r, 3);
    s->count = (int)rng_below(r, 3);
    s->least = rng_below(r, 3) ? 0 : (int)rng_below(r, 4);
    s->control = s->over && rng_below(r, 4) == 0 ? (int)rng_below(r, (uint32_t)s->n_layers) : -1;
    s->ties_high = (int)rng_below(r, 2);
    s->sink = rng_below(r, 3) ? 0 : (int)rng_below(r, 6);
    s->recent = rng_below(r, 3) ? (int)rng_below(r, 33) : 0;
    s->unit = (int)rng_below(r, 4);
    s->floor_tokens = (int)rng_below(r, 60);
    s->step = 1 + (int)rng_below(r, 20);
    s->amount = s->unit == RATIO    ? (1 + (int)rng_below(r, 100)) / 100.0
                : s->unit == TOKENS ? 1 + (int)rng_below(r, MAX_N)
                : s->unit == RATE   ? 1 + (int)rng_below(r, 60) / 4.0
                                    : 1 + (int)rng_below(r, 12);
}

static void to_yaml(const setup *s, char *out, size_t cap) {
    static const char *const groups[] = {"mean", "max", "sum"}, *const pools[] = {"none", "avg", "max"};
    static const char *const prices[] = {"max", "sum", "mean"}, *const over[] = {"sequence", "layer", "head"};
    static const char *const counts[] = {"pages", "items", "excess"}, *const units[] = {"ratio", "tokens", "rate", "pages"};
    char score[250], rule[60] = "";
    snprintf(score, sizeof score, "{window: {rows: %d, power: %d, reduce: %s, pool: %s, width: %d, group: %s, group_order: %s, force_window: %s}}",
             s->rows, s->power, s->reduce ? "mean" : "sum", pools[s->pool], s->width, groups[s->group_kind], s->before ? "before" : "after",
             s->force ? "true" : "false");
    if (s->full)
        snprintf(score, sizeof score, "{column: {power: %d, reduce: %s, lag: %d, group: %s}}", s->power, s->reduce ? "mean" : "sum", s->lag,
                 groups[s->group_kind]);
    char control[40] = "";
    if (s->control >= 0) snprintf(control, sizeof control, ", control_layers: [%d]", s->control);
    if (s->unit == RATE) snprintf(rule, sizeof rule, ", floor: %d, step: %d", s->floor_tokens, s->step);
    snprintf(out, cap,
             "{budget: {%s: %.17g%s}, score: %s,\n quota: {pages: {chunk: %d, price: %s, over: %s, count: %s, least: %d%s}}, select: {top_k: {ties: %s}}, "
             "protect: {sink: %d, recent: %d}}",
             units[s->unit], s->amount, rule, score, s->physical ? 0 : s->chunk, prices[s->price], over[s->over], counts[s->count], s->least, control,
             s->ties_high ? "high" : "low", s->sink, s->recent);
}

/* ---- the definition ---- */

typedef struct item { float score; int pos; } item;
typedef struct head {
    item list[MAX_N]; /* that may go, the first to go first */
    int n, free_pages; /* pages given up so far */
    double last_price;
    bool gone[MAX_N];
} head;

static bool is_forced(const setup *s, int j) { return s->full ? j >= s->n - s->lag : s->force && j >= s->n - s->rows; }
static bool stays(const setup *s, int j) { return j < s->sink || j >= s->n - s->recent || is_forced(s, j); }

static float grouped(const setup *s, float (*x)[MAX_N], int j) {
    float sum = 0, max = -FLT_MAX;
    for (int m = 0; m < s->group; m++) {
        sum += x[m][j];
        max = fmaxf(max, x[m][j]);
    }
    return s->group_kind == 2 ? sum : s->group_kind == 1 ? max : sum / (float)s->group;
}

static float pooled(const setup *s, const float *x, int limit, int j) {
    float sum = 0, max = -FLT_MAX;
    for (int i = 0; i < limit; i++) {
        if (abs(i - j) > s->width / 2) continue;
        sum += x[i];
        max = fmaxf(max, x[i]);
    }
    return s->pool == 0 ? x[j] : s->pool == 1 ? sum / (float)s->width : max;
}

/* Score of every position of one KV head, from the sums of (powers of) probabilities of its query heads. */
static void score_head(const setup *s, const float *signal, float *score) {
    static float raw[MAX_GROUP][MAX_N], mid[MAX_GROUP][MAX_N], one[MAX_N];
    int rows = s->rows < s->n ? s->rows : s->n, limit = !s->full && s->force ? s->n - rows : s->n;
    for (int m = 0; m < s->group; m++)
        for (int j = 0; j < s->n; j++) {
            int observers = s->full ? s->n - j - s->lag : rows;
            raw[m][j] = signal[m * s->n + j];
            if (s->reduce && observers > 0) raw[m][j] /= (float)observers;
        }
    for (int j = 0; j < limit; j++) one[j] = grouped(s, raw, j);
    if (s->full) {
        memcpy(score, one, sizeof *one * (size_t)limit);
        return;
    }
    for (int m = 0; m < s->group; m++)
        for (int j = 0; j < limit; j++) mid[m][j] = pooled(s, raw[m], limit, j);
    for (int j = 0; j < limit; j++) score[j] = s->before ? pooled(s, one, limit, j) : grouped(s, mid, j);
}

static bool ties_high;
static int first_to_go(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return ties_high ? x->pos - y->pos : y->pos - x->pos;
}

static int items_for(const setup *s, int pages) { /* that a head of n items gives up to free so many */
    int held = s->n;
    while (pages-- > 0) held -= held % s->chunk ? held % s->chunk : s->chunk;
    return s->n - held;
}

/* What the next page of a head costs; INFINITY if there is none. */
static double ask(const setup *s, const head *h) {
    int from = items_for(s, h->free_pages), to = items_for(s, h->free_pages + 1), held = (s->n + s->chunk - 1) / s->chunk;
    if (h->free_pages + 1 > held - s->least || to > h->n) return INFINITY;
    double sum = 0, most = -DBL_MAX;
    for (int i = from; i < to; i++) {
        sum += h->list[i].score;
        most = fmax(most, h->list[i].score);
    }
    double price = s->price == 0 ? most : (float)(s->price == 1 ? sum : sum / (to - from));
    return h->free_pages ? fmax(price, h->last_price) : price;
}

static int kept_of(const setup *s) {
    int least = 0, k = (int)s->amount;
    for (int j = 0; j < s->n; j++) least += j < s->sink || j >= s->n - s->recent;
    if (s->unit == RATIO) k = (int)fmax(1, s->n * (1 - (1 - s->amount)));
    if (s->unit == RATE) k = (int)fmax(s->floor_tokens, floor((s->n / s->amount - 1) / s->step) * s->step);
    if (s->unit == PAGES) k = (int)s->amount * s->chunk;
    k = k > least ? k : least;
    k = k > 1 ? k : 1;
    return k < s->n ? k : s->n;
}

/* Heads a .. b - 1 compete. */
static void compete(const setup *s, head *h, int a, int b) {
    int kept = kept_of(s), n_heads = b - a, gone = 0, pages = 0;
    int held = (s->n + s->chunk - 1) / s->chunk, keep = (kept + s->chunk - 1) / s->chunk;
    for (;;) {
        bool enough = s->count == 0   ? pages >= n_heads * (held - keep)
                      : s->count == 1 ? n_heads * s->n - gone <= n_heads * kept
                                      : pages * s->chunk >= n_heads * (s->n - kept);
        int best = -1;
        double least = INFINITY;
        for (int k = a; k < b; k++)
            if (ask(s, &h[k]) < least) least = ask(s, &h[best = k]);
        if (enough || best < 0) break;
        head *x = &h[best];
        x->last_price = least;
        for (int i = items_for(s, x->free_pages); i < items_for(s, x->free_pages + 1); i++, gone++) x->gone[x->list[i].pos] = true;
        x->free_pages++;
        pages++;
    }
}

static void definition(const setup *s, const float *signal, head *h) {
    static float score[MAX_N];
    ties_high = s->ties_high;
    for (int k = 0; k < s->n_heads; k++) {
        memset(&h[k], 0, sizeof h[k]);
        score_head(s, signal + (size_t)k * (size_t)(s->group * s->n), score);
        for (int j = 0; j < s->n; j++)
            if (!stays(s, j)) h[k].list[h[k].n++] = (item){score[j], j};
        qsort(h[k].list, (size_t)h[k].n, sizeof *h[k].list, first_to_go);
    }
    int size = s->over == 0 ? s->n_heads : s->over == 1 ? s->n_kv : 1;
    for (int a = 0; a < s->n_heads; a += size)
        if (a / s->n_kv != s->control) compete(s, h, a, a + size);
}

/* ---- the comparison ---- */

static float signal[MAX_HEADS * MAX_GROUP * MAX_N];
static uint8_t target[MAX_HEADS * MAX_N];

static policy *run(const setup *s, const char *yaml) {
    policy *p = policy_from_text(s->shape, yaml);
    policy_state *st;
    policy_layer layers[MAX_LAYERS];
    const policy_needs *needs = policy_get_needs(p);
    assert_int_equal(needs->n_signals, 1);
    assert_int_equal(needs->signals[0].kind, s->full ? SIGNAL_ALL_MASS : SIGNAL_WINDOW_MASS);
    assert_int_equal(needs->signals[0].power, s->power);
    assert_int_equal(needs->signals[0].lag, s->full ? s->lag : 0);
    assert_int_equal(policy_state_create(p, 1, &st), OK);
    for (int l = 0; l < s->n_layers; l++)
        layers[l] = (policy_layer){.layer = l, .n = s->n, .signal = {signal + l * s->n_kv * s->group * s->n}, .target = target + l * s->n_kv * s->n};
    if (needs->scope == SCOPE_SEQUENCE) assert_int_equal(policy_prefill(p, st, layers, s->n_layers), OK);
    else
        for (int l = 0; l < s->n_layers; l++) assert_int_equal(policy_prefill(p, st, &layers[l], 1), OK);
    policy_state_destroy(st);
    return p;
}

static void random_decisions_equal_their_definition(void **state) {
    rng r = rng_make(seed_get(), 1);
    static head h[MAX_HEADS];
    page_layout f16_pages;
    assert_int_equal(page_layout_make((kv_format){.k_bits = 16, .v_bits = 16}, 64, 0, false, 8192, &f16_pages), OK);
    for (int round = 0; round < 5000; round++) {
        setup s;
        char yaml[1000];
        make_setup(&r, &s);
        if (s.physical) s.chunk = f16_pages.cap;
        to_yaml(&s, yaml, sizeof yaml);
        bool coarse = rng_below(&r, 2);
        for (int i = 0; i < s.n_heads * s.group * s.n; i++) signal[i] = coarse ? (float)rng_below(&r, 6) / 8 : (float)rng_uniform(&r);
        policy_destroy(run(&s, yaml));
        definition(&s, signal, h);
        for (int k = 0; k < s.n_heads; k++)
            for (int j = 0; j < s.n; j++)
                if ((target[k * s.n + j] == KV_DROP) != h[k].gone[j])
                    fail_msg("n %d, %d layers of %d heads: head %d position %d %s, but its head gives up %d pages\n%s", s.n, s.n_layers, s.n_kv, k, j,
                             h[k].gone[j] ? "stays" : "goes", h[k].free_pages, yaml);
    }
}

static void equal_scores_free_exactly_what_was_asked(void **state) {
    rng r = rng_make(seed_get(), 2);
    for (int round = 0; round < 300; round++) {
        setup s;
        char yaml[1000];
        make_setup(&r, &s);
        s.physical = s.count = s.least = s.full = s.force = s.over = 0;
        s.control = -1;
        to_yaml(&s, yaml, sizeof yaml);
        for (int i = 0; i < s.n_heads * s.group * s.n; i++) signal[i] = 0.25f;
        policy_destroy(run(&s, yaml));
        int evictable = 0, can = 0, held = (s.n + s.chunk - 1) / s.chunk, freed = 0;
        for (int j = 0; j < s.n; j++) evictable += !stays(&s, j);
        while (can < held && items_for(&s, can + 1) <= evictable) can++;
        for (int k = 0; k < s.n_heads; k++) {
            int left = 0;
            for (int j = 0; j < s.n; j++) left += target[k * s.n + j] != KV_DROP;
            int pages = (left + s.chunk - 1) / s.chunk;
            if (pages < held && left % s.chunk) fail_msg("head %d holds %d items, no whole pages of %d\n%s", k, left, s.chunk, yaml);
            freed += held - pages;
        }
        int asked = s.n_heads * (held - (kept_of(&s) + s.chunk - 1) / s.chunk), most = s.n_heads * can;
        if (freed != (asked < most ? asked : most)) fail_msg("%d pages freed, %d asked, %d possible\n%s", freed, asked, most, yaml);
    }
}

/* Three heads of 4 items, pages of 2: prices by hand. */
static void a_small_case_by_hand(void **state) {
    const policy_shape shape = {.n_layers = 3, .n_heads = 1, .n_kv = 1, .head_dim = 64, .context = 64};
    const struct { const char *quota; const char *kept[3]; } cases[] = {
        /* sorted: A .1 .2 .7 .8   B .3 .3 .4 .5   C .0 .6 .6 .9; keep 3 of 6 pages */
        {"price: max", {"0101", "0000", "1111"}},                 /* .2 .8 | .3 .5 | .6 .9: A, B, B */
        {"price: sum", {"0101", "0101", "1010"}},                 /* .3 1.5 | .6 .9 | .6 1.5: A, B, C */
        {"price: max, least: 1", {"0101", "0101", "1010"}},       /* B keeps a page, C is next */
        {"price: max, over: head", {"0101", "0101", "1010"}},
        {"price: max, over: layer", {"0101", "0101", "1010"}},
    };
    const float score[3][4] = {{.1f, .7f, .2f, .8f}, {.3f, .4f, .3f, .5f}, {.9f, 0, .6f, .6f}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char yaml[300];
        snprintf(yaml, sizeof yaml, "{budget: {pages: 1}, score: {window: {rows: 1, force_window: false}}, quota: {pages: {chunk: 2, %s}}}", cases[i].quota);
        setup s = {.shape = shape, .n = 4, .n_kv = 1, .group = 1, .n_layers = 3, .n_heads = 3, .power = 1};
        memcpy(signal, score, sizeof score);
        policy_destroy(run(&s, yaml));
        for (int k = 0; k < 3; k++)
            for (int j = 0; j < 4; j++)
                if ((target[4 * k + j] != KV_DROP) != (cases[i].kept[k][j] == '1')) fail_msg("%s: head %d position %d", cases[i].quota, k, j);
    }
}

static void rates_follow_the_scripts(void **state) {
    const struct { const char *budget; int n, items; } cases[] = {
        {"{rate: 8}", 4096, 496}, /* (4096 / 8 - 1) rounded down to 16 */
        {"{rate: 64}", 4096, 128}, {"{rate: 64, floor: 0}", 4096, 48}, {"{rate: 1}", 500, 496}, {"{rate: 1}", 100, 100},
        {"{rate: 2.5, step: 1}", 1000, 399}, {"{rate: 50, floor: 0}", 40, 1}, {"{pages: 3}", 100, 48}, {"{tokens: 130}", 500, 144},
    };
    const policy_shape shape = {.n_layers = 1, .n_heads = 1, .n_kv = 1, .head_dim = 64, .context = 4096};
    float *x = calloc(4096, sizeof *x);
    uint8_t *t = malloc(4096);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char yaml[200];
        snprintf(yaml, sizeof yaml, "{budget: %s, score: {window: {rows: 1, force_window: false}}, quota: pages}", cases[i].budget);
        policy *p = policy_from_text(shape, yaml);
        policy_state *st;
        assert_int_equal(policy_state_create(p, 1, &st), OK);
        policy_layer l = {.n = cases[i].n, .signal = {x}, .target = t};
        assert_int_equal(policy_prefill(p, st, &l, 1), OK);
        int left = 0, want = (cases[i].items + 15) / 16 * 16;
        for (int j = 0; j < cases[i].n; j++) left += t[j] != KV_DROP;
        if (left != (want < cases[i].n ? want : cases[i].n)) fail_msg("%s of %d: %d items stay", cases[i].budget, cases[i].n, left);
        policy_state_destroy(st);
        policy_destroy(p);
    }
    free(x);
    free(t);
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_decisions_equal_their_definition),
        cmocka_unit_test(equal_scores_free_exactly_what_was_asked),
        cmocka_unit_test(a_small_case_by_hand),
        cmocka_unit_test(rates_follow_the_scripts),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
