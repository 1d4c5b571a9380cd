/* A score in one file: attention from the last rows of the prompt, times the norm of the value to the power `alpha`. With alpha 0 it is
 * SnapKV without pooling. Build it with `make`, run it with `kvlab run sweep.yaml` (both in this folder). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvlab_plugin.h"

typedef struct value_aware {
    int n_heads, n_kv_heads, rows;
    double alpha;
} value_aware;

/* Options arrive as text. A non-zero return fails the unit with the sentence in `why`. */
static int value_aware_open(const kvlab_model *model, const kvlab_option *options, int n_options, kvlab_needs *needs, void **state, char *why) {
    value_aware *s = calloc(1, sizeof *s);
    if (!s) return snprintf(why, KVLAB_WHY_BYTES, "out of memory");
    *state = s;
    *s = (value_aware){.n_heads = model->n_heads, .n_kv_heads = model->n_kv_heads, .rows = 32, .alpha = 1};
    for (int i = 0; i < n_options; i++) {
        char *end;
        double value = strtod(options[i].value, &end);
        if (end == options[i].value || *end) return snprintf(why, KVLAB_WHY_BYTES, "%s: \"%s\" is no number", options[i].name, options[i].value);
        if (!strcmp(options[i].name, "alpha")) s->alpha = value;
        else s->rows = (int)value;
    }
    needs->n_signals = 2;
    needs->signals[0] = (kvlab_signal){.kind = KVLAB_WINDOW_MASS, .rows = s->rows, .power = 1};
    needs->signals[1] = (kvlab_signal){.kind = KVLAB_VALUE_NORM};
    return 0;
}

/* One layer: the heads are its KV heads, each with the attention of its group of query heads. */
static int value_aware_run(void *state, const kvlab_decision *d, char *why) {
    const value_aware *s = state;
    int group = s->n_heads / s->n_kv_heads;
    (void)why;
    for (int k = 0; k < d->n_heads; k++) {
        kvlab_head *h = &d->heads[k];
        for (int i = 0; i < h->n; i++) {
            float mass = 0;
            for (int g = 0; g < group; g++) mass += d->signals[0][(size_t)(h->head * group + g) * (size_t)h->n + (size_t)i];
            float norm = d->signals[1][(size_t)h->head * (size_t)h->n + (size_t)i];
            h->score[i] = mass / (float)group * powf(norm, (float)s->alpha);
            h->mark[i] = i >= h->n - s->rows; /* the window itself stays, inside the budget */
        }
    }
    return 0;
}

static const char *const value_aware_options[] = {"alpha", "rows", NULL};

KVLAB_STAGE(kvlab_score) = {.abi = KVLAB_PLUGIN_ABI, .bytes = sizeof(kvlab_stage), .about = "window attention times a power of the value's norm",
                            .options = value_aware_options, .open = value_aware_open, .run = value_aware_run, .close = free};
