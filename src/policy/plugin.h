/* Stages from shared objects, behind the C interface of kvlab_plugin.h. A policy that names one is made without opening it: the file
 * is read for its hash only, so that a broken plug-in costs the units that run it and not the sweep; policy_load opens it. */
#ifndef KVLAB_POLICY_PLUGIN_H
#define KVLAB_POLICY_PLUGIN_H
#include "policy/kvlab_plugin.h"
#include "policy/stage.h"

typedef struct plugin plugin;
struct plugin {
    stage_kind kind;
    char *path, *symbol;
    char sha256[65]; /* "" where the file could not be read */
    char *why;       /* then: the reason */
    int n_options;
    kvlab_option *options;
    bool sequence;   /* quota, decide: sees all layers at once */
    int n_tiers;     /* of the policy */
    stage row;       /* what the policy's checks read of this stage */

    void *file;      /* NULL before plugin_load */
    const kvlab_stage *stage;
    void *state;
    kvlab_needs needs;
    int signal[KVLAB_MAX_SIGNALS]; /* in policy_needs.signals */
    err failed;                    /* of the first failure, which stays */
    char *error;
    /* scratch of one decision */
    kvlab_head *heads;
    uint8_t *mark;
    size_t heads_cap, mark_cap; /* bytes */
};

/* Conf of a stage that is a plug-in. */
typedef struct plugin_conf {
    plugin *pl;
} plugin_conf;
STAGE_CONF_FITS(plugin_conf);

/* Reads {path, symbol, options, live, over}; `row` gets the functions and what YAML says about the stage. */
MUST err plugin_parse(policy *p, stage_kind kind, const stage *functions, const node *at, const node *map, void *conf);
MUST err plugin_load(policy *p, plugin *pl);
void plugin_free(plugin *pl);

/* Fails the plug-in for good with a sentence about what it did; the first one counts. */
void plugin_fail(plugin *pl, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* ERR_FAILED with the sentence of the first plug-in that failed, or of one that is not loaded. */
MUST err plugins_status(const policy *p);
#endif
