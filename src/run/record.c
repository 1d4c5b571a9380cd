#include "run/record.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "run/jsonx.h"

static const char *const status_names[UNIT_N_STATUS] = {"ok", "failed", "crashed", "skipped"};

const char *unit_status_name(unit_status s) {
    return (unsigned)s < UNIT_N_STATUS ? status_names[s] : "unknown";
}

void unit_record_free(unit_record *r) {
    mem_free(r->label);
    mem_free(r->task);
    mem_free(r->item_id);
    mem_free(r->text);
    for (int i = 0; i < r->n_metrics; i++) mem_free(r->metrics[i].name);
    mem_free(r->metrics);
    mem_free(r->kl);
    mem_free(r->nll);
    mem_free(r->top1);
    mem_free(r->kept);
    mem_free(r->output);
    *r = (unit_record){0};
}

double unit_record_metric(const unit_record *r, const char *name) {
    for (int i = 0; i < r->n_metrics; i++)
        if (strcmp(r->metrics[i].name, name) == 0) return r->metrics[i].value;
    return NAN;
}

/* ---- to JSON ---- */

/* One table serves both directions. */
static const struct bytes_field {
    const char *name;
    size_t offset;
} bytes_fields[] = {
    {"payload", offsetof(cache_bytes, payload)},
    {"metadata", offsetof(cache_bytes, metadata)},
    {"columns", offsetof(cache_bytes, columns)},
    {"tables", offsetof(cache_bytes, tables)},
    {"live", offsetof(cache_bytes, live)},
    {"slack", offsetof(cache_bytes, slack)},
    {"committed", offsetof(cache_bytes, committed)},
    {"peak_live", offsetof(cache_bytes, peak_live)},
    {"peak_committed", offsetof(cache_bytes, peak_committed)},
    {"full_f16", offsetof(cache_bytes, full_f16)},
    {"items", offsetof(cache_bytes, items)},
    {"items_full", offsetof(cache_bytes, items_full)},
    {"released", offsetof(cache_bytes, released)},
    {"released_pages", offsetof(cache_bytes, released_pages)},
};
enum { N_BYTES_FIELDS = sizeof bytes_fields / sizeof *bytes_fields };

static json_t *bytes_to_json(const cache_bytes *b) {
    json_t *o = json_object();
    for (int i = 0; i < N_BYTES_FIELDS; i++) {
        size_t x;
        memcpy(&x, (const char *)b + bytes_fields[i].offset, sizeof x);
        json_object_set_new(o, bytes_fields[i].name, json_integer((json_int_t)x));
    }
    return o;
}

static json_t *floats_to_json(const float *x, int n) {
    json_t *a = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(a, jsonx_number(x[i]));
    return a;
}

static json_t *series_to_json(const unit_record *r) {
    json_t *top1 = json_array();
    for (int i = 0; i < r->n_series; i++) json_array_append_new(top1, json_integer(r->top1[i]));
    json_t *o = json_object();
    json_object_set_new(o, "kl", floats_to_json(r->kl, r->n_series));
    json_object_set_new(o, "nll", floats_to_json(r->nll, r->n_series));
    json_object_set_new(o, "top1", top1);
    return o;
}

static json_t *kept_to_json(const unit_record *r) {
    json_t *layers = json_array();
    const uint32_t *k = r->kept;
    for (int l = 0; l < r->n_layers; l++) {
        json_t *heads = json_array();
        for (int h = 0; h < r->n_kv; h++) {
            json_t *tiers = json_array();
            for (int t = 0; t < r->n_tiers; t++) json_array_append_new(tiers, json_integer(*k++));
            json_array_append_new(heads, tiers);
        }
        json_array_append_new(layers, heads);
    }
    return layers;
}

err unit_record_to_json(const unit_record *r, json_t **out) {
    json_t *o = json_object(), *metrics = json_object();
    *out = NULL;
    for (int i = 0; i < r->n_metrics; i++)
        json_object_set_new(metrics, r->metrics[i].name, jsonx_number(r->metrics[i].value));
    int bad = json_object_set_new(o, "kind", json_string(r->noise ? "noise" : "unit"));
    bad |= json_object_set_new(o, "point", json_string(r->point));
    bad |= json_object_set_new(o, "label", jsonx_text(r->label ? r->label : ""));
    bad |= json_object_set_new(o, "task", jsonx_text(r->task ? r->task : ""));
    bad |= json_object_set_new(o, "item", json_integer(r->item));
    bad |= json_object_set_new(o, "item_id", jsonx_text(r->item_id ? r->item_id : ""));
    bad |= json_object_set_new(o, "status", json_string(unit_status_name(r->status)));
    bad |= json_object_set_new(o, "text", jsonx_text(r->text ? r->text : ""));
    bad |= json_object_set_new(o, "metrics", metrics);
    if (r->n_series > 0) bad |= json_object_set_new(o, "series", series_to_json(r));
    bad |= json_object_set_new(o, "at_prompt", bytes_to_json(&r->at_prompt));
    bad |= json_object_set_new(o, "at_end", bytes_to_json(&r->at_end));
    if (r->kept) bad |= json_object_set_new(o, "kept", kept_to_json(r));
    bad |= json_object_set_new(o, "n_prompt", json_integer(r->n_prompt));
    bad |= json_object_set_new(o, "n_decoded", json_integer(r->n_decoded));
    bad |= json_object_set_new(o, "budget_clamped", json_boolean(r->budget_clamped));
    bad |= json_object_set_new(o, "seconds", jsonx_number(r->seconds));
    if (r->output) bad |= json_object_set_new(o, "output", jsonx_text(r->output));
    if (bad || (int)json_object_size(metrics) != r->n_metrics) {
        json_decref(o);
        return ERR(ERR_NOMEM, "out of memory: a record of %s cannot be written", r->label ? r->label : r->point);
    }
    *out = o;
    return OK;
}

/* ---- from JSON ---- */

static err bytes_from_json(const json_t *o, const char *key, cache_bytes *b) {
    const json_t *v = json_object_get(o, key);
    if (!json_is_object(v)) return ERR(ERR_FORMAT, "%s is not a map of byte counts", key);
    for (int i = 0; i < N_BYTES_FIELDS; i++) {
        size_t x = 0;
        if (strncmp(bytes_fields[i].name, "released", 8) == 0 && !json_object_get(v, bytes_fields[i].name)) continue; /* older journals */
        err e = jsonx_get_size(v, bytes_fields[i].name, &x);
        if (e != OK) return err_wrap(e, "%s", key);
        memcpy((char *)b + bytes_fields[i].offset, &x, sizeof x);
    }
    return OK;
}

static err metrics_from_json(const json_t *o, unit_record *r) {
    json_t *v = json_object_get(o, "metrics");
    if (!json_is_object(v)) return ERR(ERR_FORMAT, "metrics is not a map");
    TRY(mem_alloc(MEM_OTHER, json_object_size(v) * sizeof *r->metrics, &r->metrics));
    const char *name;
    json_t *x;
    json_object_foreach(v, name, x) {
        named_value *m = &r->metrics[r->n_metrics];
        TRY(jsonx_as_double(x, name, &m->value));
        m->name = mem_strdup(name);
        r->n_metrics++;
    }
    return OK;
}

static err floats_from_json(const json_t *o, const char *key, int n, float **out) {
    json_t *a;
    TRY(jsonx_get_array(o, key, &a));
    if (json_array_size(a) != (size_t)n)
        return ERR(ERR_FORMAT, "series %s has %zu values, not %d", key, json_array_size(a), n);
    TRY(mem_alloc(MEM_OTHER, (size_t)n * sizeof **out, out));
    for (int i = 0; i < n; i++) {
        double x;
        TRY(jsonx_as_double(json_array_get(a, (size_t)i), key, &x));
        (*out)[i] = (float)x;
    }
    return OK;
}

static err series_from_json(const json_t *o, unit_record *r) {
    const json_t *s = json_object_get(o, "series");
    if (!s) return OK;
    json_t *top1;
    TRY(jsonx_get_array(s, "top1", &top1));
    size_t n = json_array_size(top1);
    if (n == 0 || n > INT_MAX / 8) return ERR(ERR_FORMAT, "series has %zu tokens", n);
    TRY(floats_from_json(s, "kl", (int)n, &r->kl));
    TRY(floats_from_json(s, "nll", (int)n, &r->nll));
    TRY(mem_alloc(MEM_OTHER, n, &r->top1));
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(top1, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > 1)
            return ERR(ERR_FORMAT, "series top1 holds something else than 0 and 1");
        r->top1[i] = (uint8_t)json_integer_value(v);
    }
    r->n_series = (int)n;
    return OK;
}

static err kept_from_json(const json_t *o, unit_record *r) {
    enum { MAX_DIM = 4096 };
    const json_t *layers = json_object_get(o, "kept");
    if (!layers) return OK;
    const json_t *heads = json_array_get(layers, 0), *tiers = json_array_get(heads, 0);
    size_t n_l = json_array_size(layers), n_h = json_array_size(heads), n_t = json_array_size(tiers);
    if (n_l == 0 || n_h == 0 || n_t == 0 || n_l > MAX_DIM || n_h > MAX_DIM || n_t > KV_MAX_TIERS)
        return ERR(ERR_FORMAT, "kept is not a list over layers, heads and tiers");
    TRY(mem_alloc(MEM_OTHER, n_l * n_h * n_t * sizeof *r->kept, &r->kept));
    uint32_t *k = r->kept;
    for (size_t l = 0; l < n_l; l++) {
        heads = json_array_get(layers, l);
        if (json_array_size(heads) != n_h) return ERR(ERR_FORMAT, "kept has ragged heads in layer %zu", l);
        for (size_t h = 0; h < n_h; h++) {
            tiers = json_array_get(heads, h);
            if (json_array_size(tiers) != n_t) return ERR(ERR_FORMAT, "kept has ragged tiers in layer %zu", l);
            for (size_t t = 0; t < n_t; t++) {
                const json_t *v = json_array_get(tiers, t);
                if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
                    return ERR(ERR_FORMAT, "kept holds something else than counts in layer %zu", l);
                *k++ = (uint32_t)json_integer_value(v);
            }
        }
    }
    r->n_layers = (int)n_l;
    r->n_kv = (int)n_h;
    r->n_tiers = (int)n_t;
    return OK;
}

static err status_from_json(const json_t *o, unit_record *r) {
    const char *kind = json_string_value(json_object_get(o, "kind"));
    const char *status = json_string_value(json_object_get(o, "status"));
    if (!kind || (strcmp(kind, "unit") != 0 && strcmp(kind, "noise") != 0))
        return ERR(ERR_FORMAT, "kind is \"%s\", not \"unit\" or \"noise\"", kind ? kind : "");
    r->noise = *kind == 'n';
    for (int s = 0; status && s < UNIT_N_STATUS; s++) {
        if (strcmp(status, status_names[s]) != 0) continue;
        r->status = (unit_status)s;
        return OK;
    }
    return ERR(ERR_FORMAT, "status is \"%s\", not ok, failed, crashed or skipped", status ? status : "");
}

static err record_read(const json_t *j, unit_record *r) {
    if (!json_is_object(j)) return ERR(ERR_FORMAT, "not a map");
    TRY(status_from_json(j, r));
    TRY(jsonx_get_id(j, "point", r->point));
    TRY(jsonx_get_text_required(j, "label", &r->label));
    TRY(jsonx_get_text_required(j, "task", &r->task));
    TRY(jsonx_get_int(j, "item", 0, INT_MAX - 1, &r->item));
    TRY(jsonx_get_text_required(j, "item_id", &r->item_id));
    TRY(jsonx_get_text_required(j, "text", &r->text));
    TRY(metrics_from_json(j, r));
    TRY(series_from_json(j, r));
    TRY(bytes_from_json(j, "at_prompt", &r->at_prompt));
    TRY(bytes_from_json(j, "at_end", &r->at_end));
    TRY(kept_from_json(j, r));
    TRY(jsonx_get_int(j, "n_prompt", 0, INT_MAX, &r->n_prompt));
    TRY(jsonx_get_int(j, "n_decoded", 0, INT_MAX, &r->n_decoded));
    TRY(jsonx_get_bool(j, "budget_clamped", &r->budget_clamped));
    TRY(jsonx_get_double(j, "seconds", &r->seconds));
    return jsonx_get_text(j, "output", &r->output);
}

err unit_record_from_json(const json_t *j, unit_record *out) {
    *out = (unit_record){0};
    err e = record_read(j, out);
    if (e == OK) return OK;
    unit_record_free(out);
    return err_wrap(e, "record");
}
