/* What kvlab calibrate is asked for: goals and the numbers that may vary. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "run/calibrate.h"

const char *const goal_names[] = {"kl", "dnll", "bytes", NULL};

err goal_parse(const char *text, goal *out) {
    size_t n = strcspn(text, "=");
    for (int i = 0; goal_names[i]; i++) {
        if (strlen(goal_names[i]) != n || strncmp(text, goal_names[i], n) != 0) continue;
        char *end;
        out->kind = (goal_kind)i;
        out->limit = text[n] ? strtod(text + n + 1, &end) : NAN;
        if (!text[n] || end == text + n + 1 || *end || !isfinite(out->limit) || (i != GOAL_DNLL && out->limit <= 0))
            return ERR(ERR_USAGE, "--goal %s: expected a %s after %s=", text, i == GOAL_BYTES ? "share of an f16 cache's bytes above 0" : "limit in nats", goal_names[i]);
        if (i == GOAL_BYTES && out->limit > 1)
            return ERR(ERR_USAGE, "--goal %s: bytes is a share of an f16 cache, above 0 and at most 1", text);
        return OK;
    }
    return ERR(ERR_USAGE, "--goal \"%s\": kl=NATS, dnll=NATS and bytes=SHARE are supported", text);
}

err knob_parse(const char *text, knob *out) {
    const char *path = strncmp(text, "policy.", 7) == 0 ? text + 7 : text, *equals = strchr(path, '='), *at;
    *out = (knob){0};
    if (!equals || equals == path) return ERR(ERR_USAGE, "--vary \"%s\": expected PATH=V1,V2,..., like decide.leankv.alpha_l=0,0.02,0.1", text);
    for (at = equals + 1; ; at++) {
        char *end;
        double v = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !isfinite(v)) return ERR(ERR_USAGE, "--vary %s: \"%.40s\" does not begin with a number", text, at);
        if (out->n == CALIBRATE_MAX_VALUES) return ERR(ERR_USAGE, "--vary %s: more than %d values", text, CALIBRATE_MAX_VALUES);
        for (int i = 0; i < out->n; i++)
            if (out->value[i] == v) return ERR(ERR_USAGE, "--vary %s: %g is given twice", text, v);
        out->value[out->n++] = v;
        at = end;
        if (!*at) break;
    }
    out->path = mem_sprintf("%.*s", (int)(equals - path), path);
    return OK;
}

void knobs_free(knob *k, int n) {
    for (int i = 0; i < n; i++) mem_free(k[i].path);
}

/* LeanKV's own grid (alpha_h 1 to 5, alpha_l 0 to 0.1) with a coarser step. */
err knobs_of_policy(const node *policy, knob *out, int *n) {
    static const char *const fused[] = {"decide.leankv.alpha_h=0.5,1,2,3,5", "decide.leankv.alpha_l=0,0.02,0.05,0.1"};
    static const char *const v1[] = {"decide.leankv.p_h=0.5,0.7,0.9", "decide.leankv.p_l=0.9,0.95,0.98,1"};
    const char *const *texts = NULL;
    const node *leankv = node_path(policy, "decide.leankv"), *levels = node_path(policy, "tier.threshold.levels");
    *n = 0;
    if (leankv) texts = strcmp(node_text(node_get(leankv, "mode")), "v1_top_p") == 0 ? v1 : fused;
    for (int i = 0; texts && i < 2; i++) TRY(knob_parse(texts[i], &out[(*n)++]));
    if (node_type(levels) == NODE_MAP && node_count(levels) > 1) {
        char text[120];
        snprintf(text, sizeof text, "tier.threshold.levels.%s=0.5,1,2,3,5", node_key(levels, 0));
        TRY(knob_parse(text, &out[(*n)++]));
    }
    if (node_path(policy, "select.threshold")) TRY(knob_parse("select.threshold.alpha=0,0.02,0.05,0.1", &out[(*n)++]));
    return OK;
}
