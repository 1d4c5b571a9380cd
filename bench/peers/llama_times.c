/* Times llama.cpp through its public API, as llama-bench does: random tokens, batches of 2048 in pieces of 512 (its defaults).
 *   llama_times MODEL THREADS TYPE_K TYPE_V FLASH TEST...      TYPE: f16 q8_0 q4_0; FLASH: 0 1; TEST: prefill:N decode:N batch:N
 * prints one line per test: NAME N tokens/s, and for decode also that of its prompt, as prefill. With one thread CPU time of the process, else wall time; built by bench/peers.sh. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "llama.h"

enum { N_BATCH = 2048, STEPS = 16, SEQS = 8 };
static int n_threads, n_vocab;

static double now(void) {
    struct timespec t;
    clock_gettime(n_threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}
static void die(const char *what) {
    fprintf(stderr, "llama_times: %s\n", what);
    exit(1);
}
static enum ggml_type type_of(const char *name) {
    if (!strcmp(name, "f16")) return GGML_TYPE_F16;
    if (!strcmp(name, "q8_0")) return GGML_TYPE_Q8_0;
    if (!strcmp(name, "q4_0")) return GGML_TYPE_Q4_0;
    die("cache types are f16, q8_0, q4_0");
    return GGML_TYPE_COUNT;
}
/* n tokens of sequence s from position pos; the logits of the last are computed. */
static void feed(struct llama_context *c, struct llama_batch *b, int s, int pos, int n) {
    for (int at = 0; at < n; at += b->n_tokens) {
        b->n_tokens = n - at < N_BATCH ? n - at : N_BATCH;
        for (int i = 0; i < b->n_tokens; i++) {
            b->token[i] = rand() % n_vocab;
            b->pos[i] = pos + at + i;
            b->n_seq_id[i] = 1;
            b->seq_id[i][0] = s;
            b->logits[i] = at + i == n - 1;
        }
        if (llama_decode(c, *b)) die("llama_decode failed");
    }
    llama_synchronize(c);
}
/* One token for each of n_seqs sequences. */
static void step(struct llama_context *c, struct llama_batch *b, int n_seqs, int pos) {
    b->n_tokens = n_seqs;
    for (int i = 0; i < n_seqs; i++) {
        b->token[i] = rand() % n_vocab;
        b->pos[i] = pos;
        b->n_seq_id[i] = 1;
        b->seq_id[i][0] = i;
        b->logits[i] = 1;
    }
    if (llama_decode(c, *b)) die("llama_decode failed");
    llama_synchronize(c);
}
static void quiet(enum ggml_log_level level, const char *text, void *arg) {
    (void)arg;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv) {
    if (argc < 7) die("usage: llama_times MODEL THREADS TYPE_K TYPE_V FLASH TEST...");
    llama_log_set(quiet, NULL);
    llama_backend_init();
    n_threads = atoi(argv[2]);
    struct llama_model *m = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!m) die("the model cannot be loaded");
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(m));
    for (int i = 6; i < argc; i++) {
        char name[16];
        int n;
        if (sscanf(argv[i], "%15[^:]:%d", name, &n) != 2 || n < 1) die("tests are prefill:N, decode:N, batch:N");
        int seqs = strcmp(name, "batch") ? 1 : SEQS;
        struct llama_context_params p = llama_context_default_params();
        p.n_ctx = (unsigned)((n + 2 * STEPS + 255) / 256 * 256 * seqs);
        p.n_batch = N_BATCH;
        p.n_ubatch = 512;
        p.n_seq_max = (unsigned)seqs;
        p.kv_unified = false;
        p.n_threads = p.n_threads_batch = n_threads;
        p.flash_attn_type = atoi(argv[5]) ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        p.type_k = type_of(argv[3]);
        p.type_v = type_of(argv[4]);
        struct llama_context *c = llama_init_from_model(m, p);
        if (!c) die("no context with these settings");
        struct llama_batch b = llama_batch_init(N_BATCH, 0, 1);
        feed(c, &b, 0, 0, 16); /* warm */
        llama_memory_clear(llama_get_memory(c), true);
        double start = now(), t;
        for (int s = 0; s < seqs; s++) feed(c, &b, s, 0, n);
        t = now() - start;
        double rate = n / t;
        if (!strcmp(name, "decode") && n > 1) printf("prefill %d %.2f\n", n, rate);
        if (strcmp(name, "prefill")) {
            step(c, &b, seqs, n);
            start = now();
            for (int k = 1; k <= STEPS; k++) step(c, &b, seqs, n + k);
            rate = STEPS * seqs / (now() - start);
        }
        printf("%s %d %.2f\n", name, n, rate);
        fflush(stdout);
        llama_batch_free(b);
        llama_free(c);
    }
    llama_model_free(m);
    return 0;
}
