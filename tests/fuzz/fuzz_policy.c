/* Random policies on small models, with sliding layers and without, under the sanitizers:  fuzz_policy [seconds] [seed] [first iteration]
 *
 * A composition of stages, or a preset with another budget, runs over a prompt and decoded tokens, in several sequences of one pool, or
 * is refused with a sentence that names both sides. After every call the invariants of a cache under a policy must hold: pages and items
 * conserved, positions unique, protected ones present, tiers never richer than before, no more items or bytes than the budget allows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "policy/stage.h"
#include "tests/support/engines.h"
#include "tests/support/fuzz.h"
#include "tests/support/profiles.h"
#include "tests/support/random_policy.h"

enum { MAX_PROMPT = 150, MAX_MORE = 60, MAX_N = MAX_PROMPT + MAX_MORE, MAX_SEQS = 3, MAX_HEADS = 32, MAX_PRESETS = 128 };

static char yaml[RANDOM_POLICY_BYTES + 200];
static const char *presets[MAX_PRESETS];
static int n_presets;

static void show_policy(void) { fprintf(stderr, "%s\n", yaml); }

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *fmt, ...) {
    char what[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    fuzz_check(false, what);
    abort();
}

#define MUST_DO(call)                                                                                                                      \
    do {                                                                                                                                   \
        if ((call) != OK) die("%s: %s (%s)", #call, err_text(), err_place());                                                             \
    } while (0)

typedef struct world {
    engine *e;
    policy *p;
    const policy_needs *need;
    cache_space *space;
    int n_layers, n_kv, n_heads, vocab;
} world;

typedef struct timeline {
    seq *s;
    int n, n_prompt, n_decisions;
    uint8_t tier[MAX_HEADS][MAX_N]; /* KV_DROP: gone, for good */
} timeline;

/* Every third model has layers with a window of 12. */
static engine *open_engine(rng *r, bool *slides) {
    uint32_t which = rng_below(r, 6);
    *slides = which < 2;
    if (*slides) return tiny_engine(which ? "tests/golden/arch/gemma3.gguf" : "tests/golden/arch/mistral.gguf", MATH_FAST, 1, "cpu", "auto");
    static const int heads[][3] = {{2, 4, 2}, {3, 6, 3}, {2, 5, 1}, {1, 8, 1}, {4, 3, 3}};
    const int *h = heads[rng_below(r, 5)];
    tiny_model m = tiny_model_default();
    char name[40];
    m.n_layers = h[0];
    m.n_head = h[1];
    m.n_kv = h[2];
    m.head_dim = 32 << rng_below(r, 2);
    m.n_embd = 64;
    m.n_ff = 64;
    m.context = 256;
    snprintf(name, sizeof name, "fuzz_%d_%d_%d_%d.gguf", m.n_layers, m.n_head, m.n_kv, m.head_dim);
    return tiny_engine(tiny_model_file(name, m), MATH_FAST, 1, "cpu", "auto");
}

/* A policy's text: a composition, or a preset with another budget. */
static node *make_conf(rng *r, bool *composed, bool slides) {
    node *root = NULL, *over = NULL;
    bool all = slides && rng_below(r, 8);
    *composed = rng_below(r, 4) > 0;
    if (*composed) {
        static char own[RANDOM_POLICY_BYTES];
        random_policy(r, own);
        snprintf(yaml, sizeof yaml, "{%s%s", all ? "layers: all, " : "", own + 1);
        if (node_parse_text(yaml, strlen(yaml), "fuzz", &root)) die("%s", err_text());
        return root;
    }
    const char *name = presets[rng_below(r, (uint32_t)n_presets)];
    char path[200], budget[80];
    snprintf(path, sizeof path, "configs/policies/%s.yaml", name);
    snprintf(budget, sizeof budget, "policy: {budget: {%s: %d}}", rng_below(r, 2) ? "tokens" : "pages", 1 + (int)rng_below(r, 30));
    if (rng_below(r, 2)) snprintf(budget, sizeof budget, "policy: {budget: {%s: 0.%d}}", rng_below(r, 2) ? "ratio" : "bytes", 1 + (int)rng_below(r, 9));
    snprintf(yaml, sizeof yaml, "%s with %s", path, budget);
    if (node_parse_file(path, &root)) die("%s", err_text());
    if (all) {
        if (node_parse_text("policy: {layers: all}", 21, "fuzz", &over) || node_merge(root, over)) die("%s", err_text());
        node_free(over);
        strcat(yaml, ", layers: all");
    }
    if (node_get(node_get(root, "policy"), "budget") == NULL) return root; /* keeps everything */
    if (node_parse_text(budget, strlen(budget), "fuzz", &over) || node_merge(root, over)) die("%s", err_text());
    node_free(over);
    return root;
}

/* ---- invariants ---- */

/* Window of a layer; 0: global. */
static int window_of(const world *w, int c) { return engine_model(w->e)->layers[c / w->n_kv].window; }
/* The policy does not see it: it holds the newest tokens in the hot tier. */
static bool unseen(const world *w, int c) { return window_of(w, c) && !w->need->all_layers; }
/* The first position that the query of token n sees. */
static int first_seen(const world *w, int c, int n) { return window_of(w, c) && n > window_of(w, c) - 1 ? n - (window_of(w, c) - 1) : 0; }

enum { UNPLACED = 254 }; /* a token of the prompt, before it is stored */

static void check_items(const world *w, timeline *t, bool decided, int c, int *n_items) {
    uint32_t pos[MAX_N];
    uint8_t tier[MAX_N], now[MAX_N];
    float score[MAX_N];
    item_columns ic = {0, pos, tier, score};
    int n = cache_n_items_head(seq_cache(t->s), c / w->n_kv, c % w->n_kv);
    if (n > t->n) die("head %d holds %d items of %d tokens", c, n, t->n);
    cache_columns(seq_cache(t->s), c / w->n_kv, c % w->n_kv, &ic);
    *n_items = 0;
    for (int i = 0; i < n; i++) *n_items += !w->need->pos_column || pos[i] >= (uint32_t)first_seen(w, c, t->n);
    if (unseen(w, c)) {
        int window = window_of(w, c), cap = cache_layout(seq_cache(t->s), 0)->cap;
        if (n < (t->n < window - 1 ? t->n : window - 1) || n > window + cap) die("head %d of a sliding layer holds %d items", c, n);
        return;
    }
    int n_protected = 0, seen = first_seen(w, c, t->n);
    for (int i = seen; i < t->n; i++) n_protected += i < w->p->protect.sink || i >= t->n - w->p->protect.recent;
    if (n < n_protected) die("head %d holds %d items, %d are protected", c, n, n_protected);
    bool known = w->need->pos_column || (n == t->n && !window_of(w, c)); /* else slots are not positions */
    memset(now, KV_DROP, sizeof now);
    for (int i = 0; i < n; i++) {
        if (tier[i] >= w->need->n_tiers) die("head %d: tier %d", c, tier[i]);
        if (w->need->score_column && !(score[i] >= 0 && isfinite(score[i]))) die("head %d: a live score of %g", c, (double)score[i]);
        if (!w->need->score_column && score[i] != 0) die("head %d: a score without a column", c);
        if (!w->need->pos_column) continue;
        if (pos[i] >= (uint32_t)t->n || now[pos[i]] != KV_DROP) die("head %d: position %u is wrong or there twice", c, pos[i]);
        now[pos[i]] = tier[i];
        uint8_t before = t->tier[c][pos[i]];
        if (before == KV_DROP) die("head %d: position %u came back", c, pos[i]);
        if (before != UNPLACED && before != tier[i] && (!decided || !kv_format_can_move(w->need->tiers[before], w->need->tiers[tier[i]])))
            die("head %d: position %u moved from tier %d to %d", c, pos[i], before, tier[i]);
    }
    for (int i = 0; i < t->n && known && w->need->pos_column; i++) {
        bool safe = i >= seen && (i < w->p->protect.sink || i >= t->n - w->p->protect.recent);
        if (safe && now[i] == KV_DROP) die("head %d: protected position %d of %d is gone", c, i, t->n);
        if (!decided && now[i] == KV_DROP && t->tier[c][i] != KV_DROP && i >= seen) die("head %d: position %d went without a decision", c, i);
        t->tier[c][i] = now[i];
    }
}

/* Quotas whose rounding may overspend are not held to the count. */
static bool overspends(const world *w) {
    char text[1000];
    snprintf(text, sizeof text, "%s", policy_describe(w->p));
    return w->p->over_budget || strstr(text, "pyramid (factory") || strstr(text, "pyramid (kvpress") || strstr(text, "evicted counted") || strstr(text, "quota pages") || strstr(text, "quota profile") ||
           (strstr(text, "adaptive (blend") && !strstr(text, "exact"));
}

static void check_budget(const world *w, const timeline *t, int n_all, int n_when_decided) {
    bool clamped = false;
    int n_prompt = t->n_prompt, kept = budget_kept(w->p, 0, n_prompt, n_when_decided, &clamped), newer = t->n - n_when_decided;
    if (!w->p->budget.unit || overspends(w)) return;
    int skipped = w->p->skip_layers * w->n_kv, most = 0; /* heads that keep everything */
    for (int c = 0, seen = 0; c < w->n_heads; c++) {
        int window = window_of(w, c);
        if (unseen(w, c)) continue;
        most += newer + (seen++ < skipped ? window_holds(window, t->n) : window ? budget_kept(w->p, window, n_prompt, n_when_decided, &clamped) : kept);
    }
    bool counted = !w->p->use[STAGE_DECIDE].st || strcmp(w->p->use[STAGE_DECIDE].st->name, "water_filling"); /* which spends bytes, on cheap items too */
    if (counted && n_all > most)
        die("%d items in %d heads of %d tokens, %d of them after the decision; the budget is %d a head", n_all, w->n_heads, t->n, newer, kept);
    if (w->p->budget.unit == BUDGET_PAGES && newer == 0 && !clamped && !skipped && w->p->use[STAGE_QUOTA].st == stage_find(STAGE_QUOTA, "fixed"))
        for (int c = 0; c < w->n_heads; c++) {
            int pages = 0;
            if (unseen(w, c)) continue;
            for (int l = 0; l < w->need->n_tiers; l++)
                pages += (cache_n_items(seq_cache(t->s), c / w->n_kv, c % w->n_kv, l) + w->p->page_items[l] - 1) / w->p->page_items[l];
            if (pages > w->p->budget.amount) die("head %d fills %d pages of %g", c, pages, w->p->budget.amount);
        }
    cache_bytes b = seq_bytes(t->s);
    double limit = budget_sequence_bytes(w->p, w->p->budget.proportional ? n_when_decided : n_prompt);
    if (w->p->budget.unit == BUDGET_BYTES && newer == 0 && !clamped && (w->need->all_layers || !engine_model(w->e)->p.window) && (double)b.live > limit)
        die("%zu live bytes of %g after a decision at %d tokens", b.live, limit, t->n);
}

static void check(const world *w, timeline *t, int n_now) {
    int n_all = 0, n_decisions = seq_policy_report(t->s).n_decisions;
    bool decided = n_decisions != t->n_decisions;
    for (int c = 0; c < w->n_heads; c++) /* appended items begin in the hot tier */
        for (int i = t->n; i < n_now; i++) t->tier[c][i] = 0;
    t->n = n_now;
    if (seq_n_tokens(t->s) != n_now) die("%d tokens instead of %d", seq_n_tokens(t->s), n_now);
    MUST_DO(cache_check(seq_cache(t->s)));
    for (int c = 0; c < w->n_heads; c++) {
        int n;
        check_items(w, t, decided, c, &n);
        n_all += unseen(w, c) ? 0 : n;
    }
    if (n_decisions - t->n_decisions == 1 && t->n_decisions >= 0 && (w->p->decode_drops || t->n_decisions == 0)) /* taken before the last token, or after the prompt */
        check_budget(w, t, n_all, t->n_decisions == 0 && t->n == t->n_prompt ? n_now : n_now - 1);
    t->n_decisions = n_decisions;
}

static void check_pool(const world *w, const timeline *t, int n_seqs) {
    size_t bytes = 0, page = pool_get_stats(cache_space_pool(w->space)).page_bytes;
    for (int q = 0; q < n_seqs; q++) {
        cache_bytes b = seq_bytes(t[q].s);
        bytes += b.payload + b.metadata + b.columns + b.slack;
    }
    pool_stats st = pool_get_stats(cache_space_pool(w->space));
    if (bytes != st.pages_used * page) die("sequences hold %zu bytes of pages, the pool gave %zu", bytes, st.pages_used * page);
    if (st.extents * st.pages_per_extent > st.pages_used + 2 * st.pages_per_extent) die("%zu extents for %zu pages", st.extents, st.pages_used);
}

/* ---- one case ---- */

static void begin(const world *w, rng *r, timeline *t, const int32_t *ids) {
    int n = 1 + (int)rng_below(r, rng_below(r, 4) ? MAX_PROMPT - 1 : 12);
    memset(t, 0, sizeof *t);
    t->n_prompt = n;
    uint64_t own = rng_u64(r);
    if (rng_below(r, 3)) {
        MUST_DO(seq_create(w->e, w->space, w->p, own, &t->s));
        MUST_DO(seq_prefill(t->s, ids, n, NULL));
    } else {
        snapshot *snap;
        MUST_DO(engine_snapshot(w->e, ids, n, &snap));
        MUST_DO(seq_fork(w->e, w->space, snap, w->p, own, NULL, &t->s));
        snapshot_destroy(snap);
    }
    t->n = n;
    memset(t->tier, UNPLACED, sizeof t->tier);
    check(w, t, n);
}

static void decode(const world *w, rng *r, timeline *t, int n_seqs, const int32_t *ids) {
    float *logits = malloc(sizeof(float) * (size_t)w->vocab * MAX_SEQS);
    for (int done = 0; done < MAX_MORE;) {
        uint32_t how = rng_below(r, 12);
        int one = (int)rng_below(r, (uint32_t)n_seqs), rows = 1;
        if (how == 0) { /* many rows; decisions fall between them */
            rows = 1 + (int)rng_below(r, 20);
            if (rows > MAX_MORE - done) rows = MAX_MORE - done;
            MUST_DO(seq_extend(t[one].s, ids + t[one].n, rows, NULL));
            if (rows > 1 && seq_policy_report(t[one].s).n_decisions > t[one].n_decisions) t[one].n_decisions = -1; /* budgets: step by step */
            check(w, &t[one], t[one].n + rows);
        } else if (how == 1 && t[one].n < MAX_N - 2) { /* the clone goes on in its place */
            seq *copy;
            MUST_DO(seq_clone(t[one].s, &copy));
            seq_destroy(t[one].s);
            t[one].s = copy;
        } else {
            seq *s[MAX_SEQS];
            int32_t next[MAX_SEQS];
            for (int q = 0; q < n_seqs; q++) s[q] = t[q].s, next[q] = ids[t[q].n];
            MUST_DO(engine_step(w->e, s, next, n_seqs, logits));
            for (int q = 0; q < n_seqs; q++) check(w, &t[q], t[q].n + 1);
            for (size_t i = 0; i < (size_t)w->vocab * (size_t)n_seqs; i++)
                if (!isfinite(logits[i])) die("a logit is %g", (double)logits[i]);
        }
        done += rows;
        check_pool(w, t, n_seqs);
    }
    free(logits);
}

static void run_case(rng *r, int *n_refused) {
    static timeline t[MAX_SEQS];
    static int32_t ids[MAX_N + MAX_SEQS];
    bool composed, slides;
    world w = {.e = open_engine(r, &slides)};
    const model_params *mp = &engine_model(w.e)->p;
    node *root = make_conf(r, &composed, slides);
    err e = policy_create(composed ? root : node_get(root, "policy"), shape_with_profile(engine_policy_shape(w.e)), &w.p);
    if (e) {
        ++*n_refused;
        if (e != ERR_USAGE || !strstr(err_text(), composed ? "fuzz:1:" : ":") || random_policy_sides(err_text()) < 2)
            die("refused with code %d and \"%s\"", (int)e, err_text());
        node_free(root);
        engine_close(w.e);
        return;
    }
    node_free(root);
    w.need = policy_get_needs(w.p);
    w.n_layers = mp->n_layers, w.n_kv = mp->n_kv, w.n_heads = mp->n_layers * mp->n_kv, w.vocab = mp->n_vocab;
    MUST_DO(cache_space_create(w.e, w.p, MAX_N, 0, &w.space));
    random_ids(ids, MAX_N + MAX_SEQS, mp->n_vocab, rng_u64(r));
    int n_seqs = 1 + (int)rng_below(r, MAX_SEQS);
    for (int q = 0; q < n_seqs; q++) begin(&w, r, &t[q], ids);
    decode(&w, r, t, n_seqs, ids);
    for (int q = 0; q < n_seqs; q++) seq_destroy(t[q].s);
    if (pool_get_stats(cache_space_pool(w.space)).pages_used) die("pages stay behind");
    cache_space_destroy(w.space);
    policy_destroy(w.p);
    engine_close(w.e);
}

int main(int argc, char **argv) {
    int n_refused = 0;
    fuzz_begin("fuzz_policy", argc, argv, show_policy);
    n_presets = preset_names(presets, MAX_PRESETS);
    while (fuzz_next()) {
        rng r = rng_make(fuzz_seed, fuzz_iteration);
        run_case(&r, &n_refused);
    }
    for (int i = 0; i < n_presets; i++) free((char *)presets[i]);
    if (n_refused > 20 && n_refused == (int)fuzz_count()) die("every case was refused");
    printf("fuzz_policy: %llu policies, %d of them refused (seed %llu)\n", (unsigned long long)fuzz_count(), n_refused, (unsigned long long)fuzz_seed);
    return 0;
}
