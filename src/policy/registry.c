/* All stages. Adding one touches its own file and this table. */
#include <string.h>
#include "policy/stage.h"

#define ALL_STAGES(X)                                                                                                              \
    X(score_window) X(score_column) X(score_output_change) X(score_expected) X(score_probe) X(score_key_norm) X(score_key_diff)    \
    X(score_recency) X(score_random) X(score_significance) X(score_mean_rank) X(score_biased)       \
    X(score_plugin)                                      \
    X(quota_none) X(quota_fixed) X(quota_adaptive) X(quota_pyramid) X(quota_global) X(quota_pages) X(quota_profile)                \
    X(quota_plugin)                                                                                                                 \
    X(select_all) X(select_top_k) X(select_critical) X(select_kvcrush) X(select_threshold) X(select_plugin)                                          \
    X(tier_uniform) X(tier_by_flag) X(tier_by_rank) X(tier_threshold) X(tier_plugin)                                               \
    X(decide_leankv) X(decide_water_filling) X(decide_plugin)

#define DECLARE(name) extern const stage name;
ALL_STAGES(DECLARE)
#define ENTRY(name) &name,
static const stage *const stages[] = {ALL_STAGES(ENTRY)};
enum { N_STAGES = sizeof stages / sizeof *stages };

const char *stage_kind_name(stage_kind k) {
    static const char *const names[] = {"score", "quota", "select", "tier", "decide"};
    return names[k];
}

const stage *stage_find(stage_kind k, const char *name) {
    for (int i = 0; i < N_STAGES; i++)
        if (stages[i]->kind == k && !strcmp(stages[i]->name, name)) return stages[i];
    return NULL;
}

int stage_names(stage_kind k, const char **names, int max) {
    int n = 0;
    for (int i = 0; i < N_STAGES && n < max; i++)
        if (stages[i]->kind == k) names[n++] = stages[i]->name;
    return n;
}

int policy_list_stages(const stage_info **out) {
    static stage_info info[N_STAGES]; /* equal bytes from every caller */
    for (int i = 0; i < N_STAGES; i++)
        info[i] = (stage_info){stage_kind_name(stages[i]->kind), stages[i]->name, stages[i]->help};
    *out = info;
    return N_STAGES;
}
