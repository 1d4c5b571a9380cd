/* From keys of calibration texts to a head profile. */
#include <string.h>
#include "base/mem.h"
#include "policy/profile.h"
#include "policy/topk.h"

struct profile_builder {
    int n_layers, n_kv;
    int *n_texts; /* [n_heads] that had items of the head */
    double *sum;  /* [n_heads][PROFILE_POINTS] */
};

err profile_builder_create(int n_layers, int n_kv, profile_builder **out) {
    profile_builder *b;
    size_t n_heads = (size_t)n_layers * (size_t)n_kv;
    TRY(mem_alloc(MEM_POLICY, sizeof *b, &b));
    b->n_layers = n_layers;
    b->n_kv = n_kv;
    err e = mem_alloc(MEM_POLICY, n_heads * sizeof *b->n_texts, &b->n_texts);
    if (!e) e = mem_alloc(MEM_POLICY, n_heads * PROFILE_POINTS * sizeof *b->sum, &b->sum);
    if (e) profile_builder_destroy(b);
    else *out = b;
    return e;
}

void profile_builder_destroy(profile_builder *b) {
    if (!b) return;
    mem_free(b->n_texts);
    mem_free(b->sum);
    mem_free(b);
}

/* Places of one head's items, best first, among all of them; both arrays are sorted, lowest first. */
static void places(const uint64_t *all, int n_all, const uint64_t *own, int n, int *place) {
    for (int i = 0, at = n_all - 1; i < n; i++) {
        while (all[at] > own[n - 1 - i]) at--;
        place[i] = n_all - 1 - at;
    }
}

/* The curve place(quantile) of n items, between items linearly, at the middle of each of the points. */
static void add_curve(const int *place, int n, int n_all, double *sum) {
    for (int j = 0; j < PROFILE_POINTS; j++) {
        double at = (j + 0.5) / PROFILE_POINTS * n - 0.5;
        int i = at <= 0 ? 0 : (int)at;
        double x = i >= n - 1 ? place[n - 1] : at <= 0 ? place[0] : place[i] + (at - i) * (place[i + 1] - place[i]);
        sum[j] += (x + 0.5) / n_all;
    }
}

err profile_builder_add(profile_builder *b, uint64_t *const *keys, const int *n_of) {
    int n_heads = b->n_layers * b->n_kv, n_all = 0, most = 0;
    uint64_t *all, *tmp;
    int *place;
    for (int h = 0; h < n_heads; h++) {
        n_all += n_of[h];
        most = n_of[h] > most ? n_of[h] : most;
    }
    TRY(mem_alloc(MEM_POLICY, 2 * (size_t)n_all * sizeof *all, &all));
    tmp = all + n_all;
    err e = mem_alloc(MEM_POLICY, (size_t)most * sizeof *place, &place);
    if (e) {
        mem_free(all);
        return e;
    }
    for (int h = 0, at = 0; h < n_heads; at += n_of[h++]) memcpy(all + at, keys[h], (size_t)n_of[h] * sizeof *all);
    topk_sort(all, tmp, n_all);
    for (int h = 0; h < n_heads; h++) {
        if (!n_of[h]) continue;
        topk_sort(keys[h], tmp, n_of[h]);
        places(all, n_all, keys[h], n_of[h], place);
        add_curve(place, n_of[h], n_all, b->sum + (size_t)h * PROFILE_POINTS);
        b->n_texts[h]++;
    }
    mem_free(place);
    mem_free(all);
    return OK;
}

err profile_builder_finish(const profile_builder *b, const char *model_sha256, const char *origin, head_profile **out) {
    head_profile *p;
    size_t n_heads = (size_t)b->n_layers * (size_t)b->n_kv;
    TRY(head_profile_new(b->n_layers, b->n_kv, &p));
    p->origin = mem_strdup(origin);
    memcpy(p->model_sha256, model_sha256, 64);
    for (size_t h = 0; h < n_heads; h++)
        for (int j = 0; j < PROFILE_POINTS; j++) {
            double x = b->n_texts[h] ? b->sum[h * PROFILE_POINTS + (size_t)j] / b->n_texts[h] * 65535 : 65535;
            p->table[h * PROFILE_POINTS + (size_t)j] = (uint16_t)(x + 0.5);
        }
    *out = p;
    return OK;
}
