#include "tests/support/profiles.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/io.h"
#include "base/mem.h"
#include "tests/support/temp.h"

head_profile *random_profile(rng *r, int n_layers, int n_kv, const char *model_sha256) {
    head_profile *p;
    assert_int_equal(head_profile_new(n_layers, n_kv, &p), OK);
    memcpy(p->model_sha256, model_sha256, 64);
    p->origin = mem_strdup("random");
    for (int h = 0; h < n_layers * n_kv; h++) {
        double x = rng_uniform(r) * 20000, step = rng_uniform(r) * 170;
        for (int j = 0; j < PROFILE_POINTS; j++) {
            p->table[h * PROFILE_POINTS + j] = (uint16_t)(x > 65535 ? 65535 : x);
            if (rng_below(r, 3) == 0) x += step * rng_uniform(r) * 2; /* flat stretches */
        }
    }
    return p;
}

policy_shape shape_with_profile(policy_shape shape) {
    static char sha[64][65]; /* by geometry: a shape keeps pointing here */
    static int n_made;
    char want[65], name[32];
    int n_layers = shape.window ? shape.n_all_layers : shape.n_layers; /* with sliding layers it is one for layers: all */
    snprintf(want, sizeof want, "%032d%032d", n_layers, shape.n_kv);
    int i = 0;
    while (i < n_made && strcmp(sha[i], want) != 0) i++;
    shape.profile_dir = temp_path("profiles");
    if (i == n_made) {
        assert_true(n_made < 64);
        memcpy(sha[n_made++], want, sizeof want);
        rng r = rng_make(7, (uint64_t)i);
        head_profile *p = random_profile(&r, n_layers, shape.n_kv, want);
        assert_int_equal(io_make_dirs(shape.profile_dir), OK);
        snprintf(name, sizeof name, "%d_%d.profile", n_layers, shape.n_kv);
        char *path = io_join(shape.profile_dir, name);
        assert_int_equal(head_profile_write(path, p), OK);
        mem_free(path);
        head_profile_free(p);
    }
    shape.model_sha256 = sha[i];
    return shape;
}
