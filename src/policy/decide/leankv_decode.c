/* LeanKV in decode: before each appended token a head looks for its least significant items outside of the window.
 *
 * code   m_h, m_l: smallest mean in the high and in the low section, p = alpha_l * base, q = alpha_h * base
 *          m_h < p and m_h < m_l    the high victim is dropped
 *          m_h < q and m_l < p      the high victim moves to the low tier, the low victim is dropped
 *          m_h < q                  the high victim moves to the low tier
 * paper  Algorithm 1: the token that leaves the window is judged by itself, then the least significant item of the section it entered
 * v1     the least significant item goes if its share of the head's score is below 1 - p_l, of the high section to the low one below 1 - p_h
 *
 * A token kept in the hot tier inside of the window enters the high section when it leaves. Among equal means the higher position goes.
 *
 * All means change with every token, so each decision computes them anew: loops without branches over whole columns, and the least of every
 * 64 items, so that what comes after looks at a few blocks only. */
#include "policy/decide/leankv.h"
#include <limits.h>
#include <math.h>
#include <string.h>
#include "base/clones.h"
#include "base/half.h"

enum { BLOCK = 64, NO_KEY = INT32_MAX };
enum { HIGH, LOW };

typedef struct sections {
    const leankv *c;
    const decision *d;
    head_items *h;
    double p, q; /* thresholds on a mean */
    int now;     /* position of the token that comes next */
    int first_free, recent; /* positions below the one are sinks, items younger than the other are in the window */
    int32_t *key;           /* [n] a mean's bits, which rise as it does; NO_KEY in the window and for sinks */
    int32_t (*least)[2];    /* [blocks] of the keys of a block's items in the high and in the low section */
} sections;

static uint8_t tier_of(const sections *s, int section) { return section == LOW ? s->c->low : s->c->high; }

/* Means and keys of all items. The queries counted for an item are the tokens seen since the position that DiffKV stores with it: its
 * own, or for prompt tokens n_prompt less those of the prompt that counted. */
VECTOR_CLONES static void judge(const sections *s) {
    const uint32_t *restrict pos = s->h->pos;
    const float *restrict live = s->h->live;
    float *restrict score = s->h->score;
    int32_t *restrict key = s->key;
    const int n = s->h->n, now = s->now, prompt = s->d->n_prompt, sink = s->first_free, recent = s->recent, other = !s->c->sig.own;
    const int rows = s->c->sig.rows ? s->c->sig.rows : INT_MAX, by_stored = s->c->age == AGE_STORED;
    for (int i = 0; i < n; i++) {
        int at = (int)pos[i], counted = prompt - at - other;
        counted = counted < rows ? counted : rows;
        int seen = at < prompt ? now - prompt + counted : now - at;
        int age = by_stored ? seen : now - at;
        float mean = live[i] / (float)(seen > 0 ? seen : 1); /* as in f64 and rounded: twice as many bits and two cannot round twice */
        mean = seen > 0 ? mean : INFINITY; /* seen by nobody yet */
        score[i] = mean;
        int32_t bits = (int32_t)(f32_bits(mean) & 0x7fffffffu);
        key[i] = age >= recent && at >= sink ? bits : NO_KEY;
    }
}

/* Items of the hot tier that have left the window are of the high section. */
VECTOR_CLONES static void place(const sections *s) {
    head_items *h = s->h;
    const uint8_t *restrict now = h->tier_now;
    const int32_t *restrict key = s->key;
    uint8_t *restrict target = h->target;
    const uint8_t high = s->c->high;
    const int n = h->n;
    memcpy(target, now, (size_t)n);
    for (int i = 0; high && i < n; i++) target[i] = now[i] == 0 && key[i] != NO_KEY ? high : target[i];
}

VECTOR_CLONES static int32_t least_key(const int32_t *key, int n) {
    int32_t least = NO_KEY;
    for (int i = 0; i < n; i++) least = key[i] < least ? key[i] : least;
    return least;
}

VECTOR_CLONES static int32_t least_key_in(const int32_t *restrict key, const uint8_t *restrict target, int n, uint8_t tier) {
    int32_t least = NO_KEY;
    for (int i = 0; i < n; i++) {
        int32_t k = target[i] == tier ? key[i] : NO_KEY;
        least = k < least ? k : least;
    }
    return least;
}

static void look_at_block(const sections *s, int b) {
    int lo = b * BLOCK, n = s->h->n - lo < BLOCK ? s->h->n - lo : BLOCK;
    const uint8_t *target = s->h->target + lo, tier = target[0];
    for (int section = HIGH; section <= LOW; section++) s->least[b][section] = NO_KEY;
    if (plan_next_leaver(target, 0, n, tier) == n) { /* nearly every block */
        if (tier == s->c->high) s->least[b][HIGH] = least_key(s->key + lo, n);
        else if (tier == s->c->low) s->least[b][LOW] = least_key(s->key + lo, n);
        return;
    }
    s->least[b][HIGH] = least_key_in(s->key + lo, target, n, s->c->high);
    if (s->c->has_low) s->least[b][LOW] = least_key_in(s->key + lo, target, n, s->c->low);
}

static int n_blocks(const sections *s) { return (s->h->n + BLOCK - 1) / BLOCK; }

static void send(const sections *s, int i, uint8_t target) {
    s->h->target[i] = target;
    look_at_block(s, i / BLOCK);
}

/* The least significant item of a section outside of the window, -1 if there is none. */
static int least(const sections *s, int section, double *mean) {
    int32_t key = NO_KEY;
    int best = -1;
    *mean = INFINITY;
    for (int b = 0; b < n_blocks(s); b++) key = s->least[b][section] < key ? s->least[b][section] : key;
    if (key == NO_KEY) return -1;
    for (int b = 0; b < n_blocks(s); b++) {
        int end = (b + 1) * BLOCK < s->h->n ? (b + 1) * BLOCK : s->h->n;
        for (int i = b * BLOCK; s->least[b][section] == key && i < end; i++)
            if (s->key[i] == key && s->h->target[i] == tier_of(s, section) && (best < 0 || s->h->pos[i] > s->h->pos[best])) best = i;
    }
    *mean = (double)s->h->score[best];
    return best;
}

static int least_low(const sections *s, double *mean) {
    if (s->c->has_low) return least(s, LOW, mean);
    *mean = INFINITY;
    return -1;
}

/* Does the score reach alpha_h? */
static bool is_high(const sections *s, double mean) { return s->c->equal_worse ? mean > s->q : mean >= s->q; }

static bool step_code(const sections *s) {
    double m_h, m_l;
    int high = least(s, HIGH, &m_h);
    if (high < 0 || (is_high(s, m_h) && m_h >= s->p)) return false;
    int low = least_low(s, &m_l);
    if (m_h < s->p && m_h < m_l) send(s, high, KV_DROP);
    else if (!s->c->has_low || is_high(s, m_h)) return false;
    else {
        send(s, high, s->c->low);
        if (m_l < s->p) send(s, low, KV_DROP);
    }
    return true;
}

static bool check_high(const sections *s) {
    double mean;
    int i = least(s, HIGH, &mean);
    if (i < 0 || is_high(s, mean) || (mean >= s->p && !s->c->has_low)) return false;
    send(s, i, mean >= s->p ? s->c->low : KV_DROP);
    return true;
}

static bool check_low(const sections *s) {
    double mean;
    int i = least_low(s, &mean);
    if (i < 0 || mean >= s->p) return false;
    send(s, i, KV_DROP);
    return true;
}

static void repeat(const sections *s, bool (*step)(const sections *s)) {
    for (int i = 0; (s->c->victims == 0 || i < s->c->victims) && step(s); i++) continue;
}

VECTOR_CLONES static int oldest_in(const uint32_t *pos, int n, int lo, int hi) {
    int oldest = INT_MAX;
    for (int i = 0; i < n; i++) {
        int at = (int)pos[i];
        at = at >= lo && at <= hi ? at : INT_MAX;
        oldest = at < oldest ? at : oldest;
    }
    return oldest;
}

/* The oldest token beyond position `after` that left the window since the last decision, -1 if there is none. */
static int next_leaving(const sections *s, int after) {
    const uint32_t *pos = s->h->pos;
    int n = s->h->n, lo = s->d->first_new > s->first_free ? s->d->first_new : s->first_free, hi = s->now - s->recent;
    lo = lo > after + 1 ? lo : after + 1;
    int oldest = lo > hi ? INT_MAX : oldest_in(pos, n, lo, hi);
    for (int i = 0; oldest < INT_MAX && i < n; i++)
        if ((int)pos[i] == oldest) return i;
    return -1;
}

static void step_paper(const sections *s) {
    for (int i = next_leaving(s, -1); i >= 0; i = next_leaving(s, (int)s->h->pos[i])) {
        double mean = (double)s->h->score[i];
        if (s->h->target[i] == KV_DROP) continue;
        if (is_high(s, mean) || (mean >= s->p && !s->c->has_low)) {
            send(s, i, s->c->high);
            repeat(s, check_high);
        } else if (mean >= s->p) {
            send(s, i, s->c->low);
            repeat(s, check_low);
        } else {
            send(s, i, KV_DROP);
        }
    }
}

static double score_of_head(const sections *s) {
    double total = 0;
    for (int i = 0; i < s->h->n; i++)
        if (s->h->target[i] != KV_DROP && isfinite(s->h->score[i])) total += (double)s->h->score[i];
    return total;
}

static bool step_v1(const sections *s) {
    double m_h, m_l, total = s->c->sig.normalise ? score_of_head(s) : 1;
    int high = least(s, HIGH, &m_h), low = least_low(s, &m_l), victim = m_l < m_h || high < 0 ? low : high;
    if (victim >= 0 && fmin(m_h, m_l) < (1 - s->c->p_l) * total) send(s, victim, KV_DROP);
    else if (high >= 0 && s->c->has_low && m_h < (1 - s->c->p_h) * total) send(s, high, s->c->low);
    else return false;
    return true;
}

/* Low items below alpha_l that were low before. */
static void drop_low(const sections *s) {
    head_items *h = s->h;
    for (int b = 0; b < n_blocks(s); b++) {
        int end = (b + 1) * BLOCK < h->n ? (b + 1) * BLOCK : h->n;
        if (s->least[b][LOW] == NO_KEY || (double)f32_from_bits((uint32_t)s->least[b][LOW]) >= s->p) continue;
        for (int i = b * BLOCK; i < end; i++)
            if (h->target[i] == s->c->low && h->tier_now[i] == s->c->low && s->key[i] != NO_KEY && (double)h->score[i] < s->p) h->target[i] = KV_DROP;
    }
}

void leankv_decode(const leankv *c, const decision *d, head_items *h) {
    sections s = {.c = c, .d = d, .h = h, .now = d->n_tokens, .first_free = d->p->protect.sink, .recent = d->p->protect.recent};
    s.key = (int32_t *)d->keys; /* half a sorting key per item, one per block */
    s.least = (int32_t (*)[2])(d->keys + (h->n + 1) / 2);
    double per = c->base_decode == BASE_DECODE_KEPT ? h->n : window_sees(policy_layer_window(d->p, h->layer), d->n_tokens);
    s.p = leankv_alpha_l(c, d, h->layer) * d->scale / per;
    s.q = c->alpha_h * d->scale / per;
    judge(&s);
    place(&s);
    for (int b = 0; b < n_blocks(&s); b++) look_at_block(&s, b);
    if (c->mode == LEANKV_PAPER) step_paper(&s);
    else repeat(&s, c->mode == LEANKV_V1 ? step_v1 : step_code);
    if (c->eager && c->has_low) drop_low(&s);
}
