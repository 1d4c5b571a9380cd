/* Plans carried out on real pages under the sanitizers:  fuzz_plan [seconds] [seed]
 *
 * A case (lengths, targets, page sizes, formats) is mutated from the one before. Pages are exactly as long as they say
 * and exactly as many as the header of plan.h allows in between; afterwards every survivor must be in its tier once,
 * with its own position and score. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/rng.h"
#include "format/plan.h"
#include "tests/support/fuzz.h"

enum { MAX_ITEMS = 2000, HEAD_DIM = 32 };

typedef struct fuzz_case {
    int n_tiers, n[KV_MAX_TIERS];
    uint8_t target[MAX_ITEMS];
    page_layout l[KV_MAX_TIERS];
} fuzz_case;

static int total(const fuzz_case *f) {
    int sum = 0;
    for (int t = 0; t < f->n_tiers; t++) sum += f->n[t];
    return sum;
}

static void new_layouts(fuzz_case *f, rng *r) {
    static const char *const ladder[] = {"f32", "f16", "k8v8", "k8v4", "k4v4", "k4v2", "k2v2"};
    int at = (int)rng_below(r, 3);
    f->n_tiers = 1 + (int)rng_below(r, KV_MAX_TIERS);
    for (int t = 0; t < f->n_tiers; t++) {
        kv_format fmt;
        if (kv_format_parse(ladder[at], &fmt) ||
            page_layout_make(fmt, HEAD_DIM, 4, true, 4096 + 64 * rng_below(r, 40), &f->l[t]))
            fuzz_check(false, "a layout was refused");
        at += (int)rng_below(r, 2);
    }
}

static void mutate(fuzz_case *f, rng *r) {
    if (rng_below(r, 20) == 0) new_layouts(f, r);
    for (int t = 0; t < f->n_tiers; t++) {
        uint32_t how = rng_below(r, 6);
        if (how == 0) f->n[t] = (int)rng_below(r, MAX_ITEMS / KV_MAX_TIERS + 1);
        if (how == 1) f->n[t] = (int)rng_below(r, 3);
        if (how == 2) f->n[t] = f->l[t].cap * (int)rng_below(r, 4);
        if (f->n[t] > MAX_ITEMS / KV_MAX_TIERS) f->n[t] = MAX_ITEMS / KV_MAX_TIERS;
    }
    int n = total(f);
    for (uint32_t flips = rng_below(r, 12); n && flips; flips--) { /* runs of one value, so that whole tiers empty */
        int from = (int)rng_below(r, (uint32_t)n), len = 1 + (int)rng_below(r, rng_below(r, 2) ? 4 : (uint32_t)n);
        uint8_t to = rng_below(r, 3) ? (uint8_t)rng_below(r, KV_MAX_TIERS) : KV_DROP;
        for (int i = from; i < n && i < from + len; i++) f->target[i] = to;
    }
    for (int t = 0, i = 0; t < f->n_tiers; t++) { /* tiers never rise */
        for (int end = i + f->n[t]; i < end; i++) {
            if (f->target[i] != KV_DROP && (f->target[i] < t || f->target[i] >= f->n_tiers)) f->target[i] = (uint8_t)t;
        }
    }
}

static uint8_t *page_of(const fuzz_case *f, uint8_t *const *pages, int t, uint32_t slot) {
    return pages[(size_t)t * MAX_ITEMS + slot / f->l[t].cap];
}

static void run(const fuzz_case *f) {
    static uint8_t *pages[KV_MAX_TIERS * MAX_ITEMS], seen[MAX_ITEMS];
    int n = total(f), n_pages[KV_MAX_TIERS];
    plan_move *moves = malloc((size_t)n * sizeof *moves + 1);
    plan p = {.moves = moves};
    plan_moves(f->n, f->n_tiers, f->target, &p);
    if (p.n_moves > n) fuzz_check(false, "more moves than items");

    uint32_t item = 0;
    for (int t = 0; t < f->n_tiers; t++) {
        int most = f->n[t] > p.n_after[t] ? f->n[t] : p.n_after[t];
        n_pages[t] = (most + f->l[t].cap - 1) / f->l[t].cap;
        for (int j = 0; j < n_pages[t]; j++) {
            pages[t * MAX_ITEMS + j] = malloc(f->l[t].page_bytes);
            memset(pages[t * MAX_ITEMS + j], 0xee, f->l[t].page_bytes);
        }
        for (int i = 0; i < f->n[t]; i++, item++) {
            float x[HEAD_DIM];
            for (int c = 0; c < HEAD_DIM; c++) x[c] = (float)(item % 997) + (float)c;
            uint8_t *page = page_of(f, pages, t, (uint32_t)i);
            page_put(&f->l[t], page, i % f->l[t].cap, 1, x, HEAD_DIM, x, HEAD_DIM, &item);
            page_set_score(&f->l[t], page, i % f->l[t].cap, (float)item);
        }
    }
    for (int i = 0; i < p.n_moves; i++) {
        plan_move m = moves[i];
        const page_layout *a = &f->l[m.from_tier], *b = &f->l[m.to_tier];
        if (m.to_slot / b->cap >= (uint32_t)n_pages[m.to_tier]) fuzz_check(false, "a move beyond the pages");
        page_move(a, page_of(f, pages, m.from_tier, m.from_slot), (int)(m.from_slot % a->cap), b,
                  page_of(f, pages, m.to_tier, m.to_slot), (int)(m.to_slot % b->cap));
    }
    memset(seen, 0, sizeof seen);
    int survivors = 0;
    for (int t = 0; t < f->n_tiers; t++) {
        for (int i = 0; i < p.n_after[t]; i++, survivors++) {
            uint8_t *page = page_of(f, pages, t, (uint32_t)i);
            uint32_t pos = page_pos(&f->l[t], page, i % f->l[t].cap);
            float k[HEAD_DIM], v[HEAD_DIM];
            if (pos >= (uint32_t)n || f->target[pos] != t) fuzz_check(false, "an item is in a tier that was not its target");
            if (seen[pos]++) fuzz_check(false, "an item is there twice");
            if (page_score(&f->l[t], page, i % f->l[t].cap) != (float)pos) fuzz_check(false, "a score came apart from its item");
            page_get(&f->l[t], page, i % f->l[t].cap, k, v);
            /* the first and last channel are the group's ends: exact up to the f16 scale */
            if (k[0] < (float)(pos % 997) - 0.6f || k[0] > (float)(pos % 997) + 0.6f || v[HEAD_DIM - 1] < k[0] + 30)
                fuzz_check(false, "an item lost its values");
        }
        for (int j = 0; j < n_pages[t]; j++) free(pages[t * MAX_ITEMS + j]);
    }
    for (int i = 0; i < n; i++) survivors -= f->target[i] != KV_DROP;
    if (survivors) fuzz_check(false, "items were lost");
    free(moves);
}

int main(int argc, char **argv) {
    fuzz_begin("fuzz_plan", argc, argv, NULL);
    rng r = rng_make(fuzz_seed, 0); /* a case grows out of the one before: a seed is repeated from its start */
    static fuzz_case f;
    new_layouts(&f, &r);
    while (fuzz_next()) {
        mutate(&f, &r);
        run(&f);
    }
    printf("fuzz_plan: %llu cases, seed %llu\n", (unsigned long long)fuzz_count(), (unsigned long long)fuzz_seed);
    return 0;
}
