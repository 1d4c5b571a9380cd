/* Snapshots give back exactly what was put, count their bytes, and free everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cache/snapshot.h"
#include "tests/support/seed.h"

enum { LAYERS = 3, HEADS = 6, KV = 2, D = 48, VOCAB = 100, N = 77, PLANE = KV * N * D };

static const snapshot_shape shape_f16 = {LAYERS, HEADS, KV, D, VOCAB, true},
                            shape_f32 = {LAYERS, HEADS, KV, D, VOCAB, false};

typedef struct copying {
    snapshot *s;
    int layer;
    float *k, *v;
    bool put;
} copying;

static void copy_body(const par *p, void *arg) {
    copying *c = arg;
    if (c->put)
        snapshot_put_layer(c->s, p, c->layer, c->k, c->v);
    else
        snapshot_get_layer(c->s, p, c->layer, c->k, c->v);
}

static void layers_come_back_exactly(void **state) {
    rng r = rng_make(seed_get(), 1);
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = i * 3;
    float *k = malloc(LAYERS * PLANE * sizeof *k), *v = malloc(LAYERS * PLANE * sizeof *v);
    float ko[PLANE], vo[PLANE];
    assert_true(k && v);
    for (int half = 0; half < 2; half++) {
        snapshot *s;
        assert_int_equal(snapshot_create(half ? shape_f16 : shape_f32, N, ids, &s), OK);
        for (int i = 0; i < LAYERS * PLANE; i++) {
            k[i] = rng_normal(&r), v[i] = rng_normal(&r) * 1e-5f;
            if (half) k[i] = f32_round_f16(k[i]), v[i] = f32_round_f16(v[i]);
        }
        for (int l = 0; l < LAYERS; l++)
            par_run(1 + l, copy_body, &(copying){s, l, k + l * PLANE, v + l * PLANE, true});
        for (int l = LAYERS - 1; l >= 0; l--) {
            par_run(3, copy_body, &(copying){s, l, ko, vo, false});
            assert_memory_equal(ko, k + l * PLANE, sizeof ko);
            assert_memory_equal(vo, v + l * PLANE, sizeof vo);
        }
        assert_int_equal(s->n_tail, SNAPSHOT_TAIL_ROWS);
        for (int i = 0; i < N; i++) assert_int_equal(s->ids[i], i * 3);
        snapshot_destroy(s);
    }
    free(k), free(v);
}

static void bytes_are_those_allocated(void **state) {
    int32_t ids[N] = {0};
    size_t before = mem_live_bytes(MEM_SNAPSHOT);
    snapshot *s;
    assert_int_equal(snapshot_create(shape_f16, N, ids, &s), OK);
    assert_int_equal(snapshot_bytes(s), mem_live_bytes(MEM_SNAPSHOT) - before);
    assert_true(snapshot_bytes(s) >= 2u * LAYERS * PLANE * 2);
    snapshot_destroy(s);
    assert_int_equal(snapshot_create(shape_f32, 5, ids, &s), OK);
    assert_int_equal(s->n_tail, 5);
    assert_int_equal(snapshot_bytes(s), mem_live_bytes(MEM_SNAPSHOT) - before);
    snapshot_destroy(s);
    snapshot_destroy(NULL);
    assert_int_equal(mem_live_bytes(MEM_SNAPSHOT), before);
}

static void bad_shapes_and_missing_memory_are_errors(void **state) {
    int32_t ids[N] = {0};
    snapshot *s;
    assert_int_equal(snapshot_create(shape_f16, 0, ids, &s), ERR_USAGE);
    assert_null(s);
    size_t before = mem_live_bytes(MEM_SNAPSHOT);
    for (int n = 1; n <= 7; n++) {
        mem_fail_nth(n);
        assert_int_equal(snapshot_create(shape_f16, N, ids, &s), ERR_NOMEM);
        mem_fail_nth(0);
        assert_null(s);
        assert_int_equal(mem_live_bytes(MEM_SNAPSHOT), before);
    }
}

int main(int argc, char **argv) {
    seed_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_come_back_exactly),
        cmocka_unit_test(bytes_are_those_allocated),
        cmocka_unit_test(bad_shapes_and_missing_memory_are_errors),
    };
    return seed_end(cmocka_run_group_tests(tests, NULL, NULL));
}
