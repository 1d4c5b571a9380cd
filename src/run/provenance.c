#include "run/provenance.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <H5public.h>
#include <openssl/crypto.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <xxhash.h>
#include <yaml.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/mem.h"
#include "base/par.h"
#include "run/jsonx.h"

static const size_t max_environment_bytes = 16 << 20;

/* ---- the machine ---- */

/* Value after "key ... :" in a /proc text, mem_free; "" if absent. */
static char *proc_value(const char *path, const char *key) {
    char *text, *value = NULL;
    size_t n;
    if (io_read_file(path, 16 << 20, &text, &n) != OK) return mem_strdup("");
    for (char *line = text; line && !value; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, strlen(key)) != 0) continue;
        char *colon = strchr(line, ':');
        if (!colon) break;
        colon += 1 + strspn(colon + 1, " \t");
        value = mem_sprintf("%.*s", (int)strcspn(colon, "\n"), colon);
    }
    mem_free(text);
    return value ? value : mem_strdup("");
}

static size_t meminfo(const char *key) {
    char *v = proc_value("/proc/meminfo", key);
    size_t kib = strtoull(v, NULL, 10);
    mem_free(v);
    return kib * 1024;
}

size_t machine_memory_bytes(void) {
    return meminfo("MemTotal");
}

size_t machine_available_bytes(void) {
    return meminfo("MemAvailable");
}

char *machine_cpu_model(void) {
    return proc_value("/proc/cpuinfo", "model name");
}

static char *os_name(void) {
    char *text, *name = NULL;
    size_t n;
    if (io_read_file("/etc/os-release", 1 << 20, &text, &n) != OK) return mem_strdup("unknown");
    char *at = strstr(text, "PRETTY_NAME=");
    if (at) {
        at += strlen("PRETTY_NAME=");
        at += *at == '"';
        name = mem_sprintf("%.*s", (int)strcspn(at, "\"\n"), at);
    }
    mem_free(text);
    return name ? name : mem_strdup("unknown");
}

static json_t *libraries(void) {
    unsigned major, minor, release;
    int y[3];
    char hdf5[32] = "unknown", yaml[32], pcre[64] = "unknown", xxh[32];
    if (H5get_libversion(&major, &minor, &release) >= 0) snprintf(hdf5, sizeof hdf5, "%u.%u.%u", major, minor, release);
    yaml_get_version(&y[0], &y[1], &y[2]);
    snprintf(yaml, sizeof yaml, "%d.%d.%d", y[0], y[1], y[2]);
    pcre2_config(PCRE2_CONFIG_VERSION, pcre);
    unsigned v = XXH_versionNumber();
    snprintf(xxh, sizeof xxh, "%u.%u.%u", v / 10000, v / 100 % 100, v % 100);
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "hdf5", hdf5, "libyaml", yaml, "pcre2", pcre, "jansson",
                     jansson_version_str(), "xxhash", xxh, "openssl", OpenSSL_version(OPENSSL_VERSION));
}

err provenance_machine(bool with_bandwidth, json_t **out) {
    struct utsname u = {0};
    const char *isas[16];
    char *cpu = machine_cpu_model(), *os = os_name();
    json_t *isa = json_array();
    int n = backend_isas(isas, 16);
    for (int i = 0; i < n && i < 16; i++) json_array_append_new(isa, json_string(isas[i]));
    uname(&u);
    *out = json_pack("{s:o,s:i,s:i,s:o,s:I,s:o,s:s,s:o}", "cpu", jsonx_text(cpu), "cpus", par_n_cpus(), "cpus_online",
                     (int)sysconf(_SC_NPROCESSORS_ONLN), "isa", isa, "memory_bytes", (json_int_t)machine_memory_bytes(),
                     "os", jsonx_text(os), "kernel", u.release, "libraries", libraries());
    mem_free(cpu);
    mem_free(os);
    if (!*out) return ERR(ERR_NOMEM, "out of memory: the machine cannot be described");
    if (!with_bandwidth) return OK;
    bandwidth b;
    err e = bandwidth_probe(&b);
    if (e != OK) {
        json_decref(*out);
        *out = NULL;
        return e;
    }
    json_object_set_new(*out, "read_bandwidth",
                        json_pack("{s:f,s:f,s:i,s:s}", "one_thread", b.one, "all_threads", b.all, "threads", b.threads,
                                  "unit", "GB/s"));
    return OK;
}

/* ---- the sweep ---- */

/* Dotted paths of all leaves: every key of a resolved point was read, unread ones are errors. */
static void add_keys(const node *n, const char *prefix, json_t *set) {
    if (node_type(n) != NODE_MAP || node_count(n) == 0) {
        if (*prefix) json_object_set_new(set, prefix, json_true());
        return;
    }
    for (int i = 0; i < node_count(n); i++) {
        char *path = mem_sprintf("%s%s%s", prefix, *prefix ? "." : "", node_key(n, i));
        add_keys(node_at(n, i), path, set);
        mem_free(path);
    }
}

static json_t *used_keys(const experiment *x) {
    json_t *set = json_object(), *list = json_array();
    for (int i = 0; i < x->n_points; i++) {
        add_keys(x->points[i].conf, "", set);
        add_keys(x->points[i].policy, "policy", set);
    }
    const char *key;
    json_t *v;
    json_object_foreach(set, key, v) json_array_append_new(list, json_string(key));
    json_decref(set);
    return list;
}

static json_t *models(const experiment *x) {
    json_t *list = json_array();
    for (int g = 0; g < x->n_groups; g++) {
        const experiment_group *k = &x->groups[g];
        json_array_append_new(list,
                              json_pack("{s:o,s:s,s:s,s:s,s:i,s:i,s:I}", "model", jsonx_text(k->model), "sha256",
                                        k->model_sha256, "architecture", k->params.arch, "math",
                                        k->math == MATH_FAST ? "fast" : "exact", "threads", k->threads, "context",
                                        k->context ? k->context : k->params.context, "seed", (json_int_t)k->seed));
    }
    return list;
}

static json_t *build(void) {
    return json_pack("{s:s,s:s,s:b,s:s,s:s}", "version", build_version(), "commit", build_commit(), "dirty",
                     build_dirty(), "compiler", build_compiler(), "flags", build_flags());
}

static json_t *text_of(const experiment *x) {
    if (!x->text) return json_null();
    return json_pack("{s:o,s:s}", "name", jsonx_text(text_source_name(x->text)), "sha256", text_source_sha256(x->text));
}

static err describe(const experiment *x, bool with_bandwidth, json_t **out) {
    char now[32];
    json_t *machine;
    TRY(provenance_machine(with_bandwidth, &machine));
    clock_iso8601(clock_wall(), now);
    *out = json_pack("{s:i,s:s,s:o,s:o,s:o,s:s,s:o,s:o,s:o,s:[]}", "schema", 1, "time", now, "kvlab", build(),
                     "machine", machine, "sweep", jsonx_text(x->name), "sweep_id", x->id, "groups", models(x), "text",
                     text_of(x), "used_keys", used_keys(x), "unused_keys");
    return *out ? OK : ERR(ERR_NOMEM, "out of memory: the environment cannot be described");
}

static err write_json(const char *path, const json_t *j) {
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    if (!text) return ERR(ERR_NOMEM, "out of memory: %s cannot be encoded", path);
    char *line = mem_sprintf("%s\n", text);
    free(text);
    err e = io_write_file(path, line, strlen(line));
    mem_free(line);
    return e;
}

err provenance_write(const experiment *x, bool resumed) {
    char *path = io_join(x->dir, "environment.json"), *text = NULL;
    size_t n;
    json_t *now = NULL, *old = NULL;
    if (resumed && io_exists(path) && io_read_file(path, max_environment_bytes, &text, &n) == OK) {
        json_error_t je;
        old = json_loadb(text, n, 0, &je);
        mem_free(text);
    }
    err e = describe(x, !old, &now);
    if (e == OK && old) {
        json_t *list = json_object_get(old, "resumed");
        if (!json_is_array(list)) json_object_set_new(old, "resumed", list = json_array());
        json_array_append(list, now);
    }
    if (e == OK) e = write_json(path, old ? old : now);
    json_decref(now);
    json_decref(old);
    mem_free(path);
    return e;
}
