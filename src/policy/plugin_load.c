/* From YAML to an open plug-in: path, options and hash; then the shared object, its version, its options and the signals it needs. */
#include "policy/plugin.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "cache/snapshot.h"

/* ---- configuration ---- */

static err add_option(plugin *pl, const char *name, const node *value) {
    if (node_type(value) == NODE_MAP || node_type(value) == NODE_LIST) {
        for (int i = 0; i < node_count(value); i++) {
            const char *key = node_key(value, i);
            char index[16];
            snprintf(index, sizeof index, "%d", i);
            const node *v = node_at(value, i);
            char *longer = mem_sprintf("%s%s%s", name, *name ? "." : "", key ? key : index);
            err e = add_option(pl, longer, v);
            mem_free(longer);
            TRY(e);
        }
        return OK;
    }
    kvlab_option *more = mem_alloc_small((size_t)(pl->n_options + 1) * sizeof *more);
    if (pl->n_options) memcpy(more, pl->options, (size_t)pl->n_options * sizeof *more);
    mem_free(pl->options);
    pl->options = more;
    pl->options[pl->n_options++] = (kvlab_option){mem_strdup(name), mem_strdup(node_text(value))};
    return OK;
}

static err text_of(const node *map, const char *key, const char **out) {
    const node *v = node_get(map, key);
    if (!v) return OK;
    if (node_type(v) != NODE_SCALAR || !*node_text(v)) return NODE_ERR(v, "%s of a plug-in is not a text", key);
    *out = node_text(v);
    return OK;
}

/* dlopen searches the library path for a name without a slash; here a path is a path. */
static char *own_path(const char *path) { return strchr(path, '/') ? mem_strdup(path) : mem_sprintf("./%s", path); }

static err read_conf(plugin *pl, const node *at, const node *map) {
    const char *path = NULL, *symbol = NULL, *over = NULL;
    if (node_type(map) != NODE_MAP) return NODE_ERR(at, "%s plugin needs a path: {plugin: {path: ./mine.so}}", stage_kind_name(pl->kind));
    TRY(text_of(map, "path", &path));
    TRY(text_of(map, "symbol", &symbol));
    if (!path) return NODE_ERR(map, "%s plugin needs a path: {plugin: {path: ./mine.so}}", stage_kind_name(pl->kind));
    pl->path = own_path(path);
    pl->symbol = symbol ? mem_strdup(symbol) : mem_sprintf("kvlab_%s", stage_kind_name(pl->kind));
    const node *live = node_get(map, "live");
    if (live) TRY(node_as_bool(live, &pl->row.live));
    if (pl->kind == STAGE_QUOTA || pl->kind == STAGE_DECIDE) {
        TRY(text_of(map, "over", &over));
        pl->sequence = over && !strcmp(over, "sequence");
        if (over && !pl->sequence && strcmp(over, "layer"))
            return NODE_ERR(node_get(map, "over"), "%s plugin: over is \"%s\"; it is layer or sequence", stage_kind_name(pl->kind), over);
    }
    const node *options = node_get(map, "options");
    if (options && node_type(options) != NODE_NULL) {
        if (node_type(options) != NODE_MAP) return NODE_ERR(options, "options of a plug-in are a map");
        TRY(add_option(pl, "", options));
    }
    return node_check_read(map);
}

static void read_hash(plugin *pl) {
    if (hash_file_sha256(pl->path, pl->sha256) == OK) return;
    pl->sha256[0] = 0;
    pl->why = mem_strdup(err_text());
}

err plugin_parse(policy *p, stage_kind kind, const stage *functions, const node *at, const node *map, void *conf) {
    plugin *pl;
    TRY(mem_alloc(MEM_POLICY, sizeof *pl, &pl));
    p->plugins[kind] = ((plugin_conf *)conf)->pl = pl; /* the policy's from here on */
    pl->kind = kind;
    pl->n_tiers = p->needs.n_tiers;
    pl->row = *functions;
    TRY(read_conf(pl, at, map));
    read_hash(pl);
    if (kind == STAGE_SCORE) p->may_force = p->shape.context;
    bool scored = kind != STAGE_SCORE && p->use[STAGE_SCORE].st != NULL;
    pl->row.budgeted = kind == STAGE_QUOTA || kind == STAGE_SELECT || (kind == STAGE_DECIDE && p->budget.unit);
    pl->row.drops = kind == STAGE_DECIDE;
    pl->row.ranks = scored;
    if (kind == STAGE_SELECT) pl->row.marks = ITEM_REPRESENTATIVE;
    if (pl->sequence) p->needs.scope = SCOPE_SEQUENCE;
    else if (kind == STAGE_QUOTA || kind == STAGE_DECIDE) p->needs.scope = SCOPE_LAYER;
    p->use[kind].st = &pl->row;
    return OK;
}

void plugin_free(plugin *pl) {
    if (!pl) return;
    if (pl->stage && pl->stage->close && pl->state) pl->stage->close(pl->state);
    if (pl->file) dlclose(pl->file);
    for (int i = 0; i < pl->n_options; i++) {
        mem_free((char *)pl->options[i].name);
        mem_free((char *)pl->options[i].value);
    }
    mem_free(pl->options);
    mem_free(pl->path);
    mem_free(pl->symbol);
    mem_free(pl->why);
    mem_free(pl->error);
    mem_free(pl->heads);
    mem_free(pl->mark);
    mem_free(pl);
}

/* ---- opening ---- */

static err find_stage(plugin *pl) {
    const char *kind = stage_kind_name(pl->kind);
    if (pl->why) return ERR(ERR_FAILED, "%s plug-in: %s", kind, pl->why);
    pl->file = dlopen(pl->path, RTLD_NOW | RTLD_LOCAL);
    if (!pl->file) return ERR(ERR_FAILED, "%s plug-in %s cannot be opened: %s", kind, pl->path, dlerror());
    const kvlab_stage *st = dlsym(pl->file, pl->symbol);
    if (!st)
        return ERR(ERR_FAILED, "%s plug-in %s does not export %s; it needs KVLAB_STAGE(%s) = {...} (kvlab_plugin.h)", kind, pl->path, pl->symbol,
                   pl->symbol);
    if (st->abi != KVLAB_PLUGIN_ABI)
        return ERR(ERR_FAILED, "%s plug-in %s is built for version %u of kvlab_plugin.h, this kvlab has version %d", kind, pl->path,
                   (unsigned)st->abi, KVLAB_PLUGIN_ABI);
    if (st->bytes != sizeof *st)
        return ERR(ERR_FAILED, "%s plug-in %s: %s has %u bytes instead of %zu: set .bytes = sizeof(kvlab_stage)", kind, pl->path, pl->symbol,
                   (unsigned)st->bytes, sizeof *st);
    if (!st->run) return ERR(ERR_FAILED, "%s plug-in %s: %s has no `run`", kind, pl->path, pl->symbol);
    pl->stage = st;
    return OK;
}

static bool reads(const kvlab_stage *st, const char *option) {
    size_t n = strcspn(option, ".");
    for (int i = 0; st->options && st->options[i]; i++)
        if (strlen(st->options[i]) == n && !strncmp(st->options[i], option, n)) return true;
    return false;
}

static err check_options(const plugin *pl) {
    for (int i = 0; i < pl->n_options; i++) {
        const char *name = pl->options[i].name;
        if (reads(pl->stage, name)) continue;
        int n = 0;
        while (pl->stage->options && pl->stage->options[n]) n++;
        const char *hint = n ? node_suggest(name, pl->stage->options, n) : NULL;
        return ERR(ERR_FAILED, "%s plug-in %s has no option %s%s%s%s", stage_kind_name(pl->kind), pl->path, name, hint ? ", did you mean " : "",
                   hint ? hint : "", n ? "" : "; it reads none");
    }
    return OK;
}

static bool within(int x, int lo, int hi) { return x >= lo && x <= hi; }

/* The request behind a signal of the interface; false where a number is out of range or does not belong to its kind. */
static bool request_of(const kvlab_signal *s, signal_request *r) {
    enum { MOST = 1 << 16 };
    *r = (signal_request){.kind = s->kind};
    kvlab_signal plain = {.kind = s->kind};
    bool fine = false;
    switch (s->kind) {
    case KVLAB_WINDOW_MASS:
        r->kind = SIGNAL_WINDOW_MASS, r->rows = plain.rows = s->rows, r->power = plain.power = s->power, r->max = plain.max = s->max;
        fine = within(s->rows, 1, SNAPSHOT_TAIL_ROWS) && within(s->power, 1, 2) && within(s->max, 0, 1);
        break;
    case KVLAB_ALL_MASS:
        r->kind = SIGNAL_ALL_MASS, r->power = plain.power = s->power, r->max = plain.max = s->max, r->lag = plain.lag = s->lag;
        fine = within(s->power, 1, 2) && within(s->max, 0, 1) && within(s->lag, 0, MOST);
        break;
    case KVLAB_WINDOW_CHANGE:
        r->kind = SIGNAL_WINDOW_CHANGE, r->rows = plain.rows = s->rows;
        fine = within(s->rows, 1, SNAPSHOT_TAIL_ROWS);
        break;
    case KVLAB_EXPECTED_MASS:
        r->kind = SIGNAL_EXPECTED_MASS, r->first = plain.first = s->first, r->future = plain.future = s->future;
        r->covariance = plain.covariance = s->covariance;
        fine = within(s->first, 0, MOST) && within(s->future, 1, MOST) && within(s->covariance, 0, 1);
        break;
    case KVLAB_PROBE_MASS:
        r->kind = SIGNAL_PROBE_MASS, r->rows = plain.rows = s->rows, r->unit = plain.unit = s->unit, r->first = plain.first = s->first;
        fine = within(s->rows, 16, MOST) && within(s->unit, 0, 1) && within(s->first, 0, 2);
        break;
    case KVLAB_KEY_NORM: r->kind = SIGNAL_KEY_NORM, fine = true; break;
    case KVLAB_KEY_COSINE: r->kind = SIGNAL_KEY_COSINE, r->unit = plain.unit = s->unit, fine = within(s->unit, 0, 1); break;
    case KVLAB_VALUE_NORM: r->kind = SIGNAL_VALUE_NORM, fine = true; break;
    case KVLAB_VALUE_OUTPUT: r->kind = SIGNAL_VALUE_OUTPUT, r->power = plain.power = s->power, fine = within(s->power, 1, 2); break;
    }
    return fine && !memcmp(&plain, s, sizeof plain);
}

static err request_signals(policy *p, plugin *pl) {
    const char *kind = stage_kind_name(pl->kind);
    const kvlab_needs *n = &pl->needs;
    if (n->n_signals < 0 || n->n_signals > KVLAB_MAX_SIGNALS)
        return ERR(ERR_FAILED, "%s plug-in %s asks for %d signals, at most %d are given", kind, pl->path, n->n_signals, KVLAB_MAX_SIGNALS);
    if (n->n_signals && (pl->kind == STAGE_QUOTA || pl->sequence))
        return ERR(ERR_FAILED, "%s plug-in %s asks for signals, which only score, select, tier and a decide over one layer see", kind, pl->path);
    for (int i = 0; i < n->n_signals; i++) {
        signal_request r;
        if (!request_of(&n->signals[i], &r))
            return ERR(ERR_FAILED, "%s plug-in %s: signal %d (kind %d) has a parameter out of range or one that is not its own", kind, pl->path, i,
                       n->signals[i].kind);
        TRY(policy_request_signal(p, NULL, r, &pl->signal[i]));
    }
    return OK;
}

err plugin_load(policy *p, plugin *pl) {
    TRY(find_stage(pl));
    TRY(check_options(pl));
    kvlab_model m = {.n_layers = p->shape.n_layers, .n_heads = p->shape.n_heads, .n_kv_heads = p->shape.n_kv, .head_dim = p->shape.head_dim,
                     .context = p->shape.context, .n_tiers = p->needs.n_tiers};
    for (int t = 0; t < m.n_tiers; t++) m.tier_names[t] = p->tier_names[t];
    char why[KVLAB_WHY_BYTES] = "";
    if (pl->stage->open && pl->stage->open(&m, pl->options, pl->n_options, &pl->needs, &pl->state, why)) {
        why[sizeof why - 1] = 0;
        return ERR(ERR_FAILED, "%s plug-in %s did not open: %s", stage_kind_name(pl->kind), pl->path, *why ? why : "it gave no reason");
    }
    if ((pl->kind == STAGE_TIER || pl->kind == STAGE_DECIDE) && budget_needs_layouts(p) && !pl->stage->count)
        return ERR(ERR_FAILED, "%s plug-in %s has no `count`, which a budget in bytes or pages needs", stage_kind_name(pl->kind), pl->path);
    return request_signals(p, pl);
}

err policy_load(policy *p) {
    for (int k = 0; k < STAGE_N_KINDS; k++)
        if (p->plugins[k] && !p->plugins[k]->stage) TRY(plugin_load(p, p->plugins[k]));
    return OK;
}

int policy_list_plugins(const policy *p, policy_plugin *out, int max) {
    int n = 0;
    for (int k = 0; k < STAGE_N_KINDS && n < max; k++)
        if (p->plugins[k]) out[n++] = (policy_plugin){stage_kind_name((stage_kind)k), p->plugins[k]->path, p->plugins[k]->sha256};
    return n;
}

/* ---- failing ---- */

void plugin_fail(plugin *pl, const char *fmt, ...) {
    if (pl->failed) return;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' ';
    pl->failed = ERR_FAILED;
    pl->error = mem_sprintf("%s plug-in %s: %s", stage_kind_name(pl->kind), pl->path, text);
}

err plugins_status(const policy *p) {
    for (int k = 0; k < STAGE_N_KINDS; k++) {
        const plugin *pl = p->plugins[k];
        if (pl && pl->failed) return ERR(pl->failed, "%s", pl->error);
    }
    return OK;
}
