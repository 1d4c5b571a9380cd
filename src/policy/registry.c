/* All stages. Adding one touches its own file and this table. */
#include <string.h>
#include "policy/stage.h"

extern const stage score_window, score_column, score_output_change, score_expected, score_probe, score_key_norm, score_key_diff, score_recency,
    score_random, score_significance;
extern const stage score_plugin, quota_plugin, select_plugin, tier_plugin, decide_plugin;
extern const stage quota_none, quota_fixed, quota_adaptive, quota_pyramid, quota_global, quota_pages;
extern const stage select_all, select_top_k, select_critical, select_threshold;
extern const stage tier_uniform, tier_by_flag, tier_by_rank, tier_threshold;
extern const stage decide_leankv;

static const stage *const stages[] = {
    &score_window, &score_column, &score_output_change, &score_expected, &score_probe, &score_key_norm, &score_key_diff, &score_recency, &score_random,
    &score_significance, &score_plugin,
    &quota_none, &quota_fixed, &quota_adaptive, &quota_pyramid, &quota_global, &quota_pages, &quota_plugin,
    &select_all, &select_top_k, &select_critical, &select_threshold, &select_plugin,
    &tier_uniform, &tier_by_flag, &tier_by_rank, &tier_threshold, &tier_plugin, &decide_plugin,
    &decide_leankv,
};
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
