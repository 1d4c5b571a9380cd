/* LeanKV in decode: before each appended token a head looks for its least significant items outside of the window.
 *
 * code   m_h, m_l: smallest mean in the high and in the low section, p = alpha_l * base, q = alpha_h * base
 *          m_h < p and m_h < m_l    the high victim is dropped
 *          m_h < q and m_l < p      the high victim moves to the low tier, the low victim is dropped
 *          m_h < q                  the high victim moves to the low tier
 * paper  Algorithm 1: the token that leaves the window is judged by itself, then the least significant item of the section it entered
 * v1     the least significant item goes if its share of the head's score is below 1 - p_l, of the high section to the low one below 1 - p_h
 *
 * A token kept in the hot tier inside of the window enters the high section when it leaves. Among equal means the higher position goes. */
#include "policy/decide/leankv.h"
#include <math.h>

typedef struct sections {
    const leankv *c;
    const decision *d;
    head_items *h;
    double p, q; /* thresholds on a mean */
    int now;     /* position of the token that comes next */
    uint8_t *outside; /* [n] of the window */
} sections;

/* The position that DiffKV stores with an item's score: tokens seen since are the queries counted. */
static int stored_position(const sections *s, int pos) {
    return pos < s->d->n_prompt ? s->d->n_prompt - significance_observers(&s->c->sig, s->d->n_prompt, pos) : pos;
}

static bool outside_window(const sections *s, int i) {
    int pos = (int)s->h->pos[i], from = s->c->age == AGE_STORED ? stored_position(s, pos) : pos;
    return s->now - from >= s->d->p->protect.recent && !(s->h->flags[i] & ITEM_SINK);
}

static double mean_of(const sections *s, int i) {
    int n = s->now - stored_position(s, (int)s->h->pos[i]);
    return n > 0 ? (double)s->h->live[i] / n : INFINITY; /* seen by nobody yet */
}

/* The least significant item of a section outside of the window, -1 if there is none. */
static int least(const sections *s, int tier, double *mean) {
    int best = -1;
    *mean = INFINITY;
    for (int i = 0; i < s->h->n; i++) {
        if (s->h->target[i] != tier || !s->outside[i]) continue;
        double m = (double)s->h->score[i];
        if (best < 0 || m < *mean || (m == *mean && s->h->pos[i] > s->h->pos[best])) best = i, *mean = m;
    }
    return best;
}

static int least_low(const sections *s, double *mean) {
    if (s->c->has_low) return least(s, s->c->low, mean);
    *mean = INFINITY;
    return -1;
}

/* Does the score reach alpha_h? */
static bool is_high(const sections *s, double mean) { return s->c->equal_worse ? mean > s->q : mean >= s->q; }

static bool step_code(const sections *s) {
    double m_h, m_l;
    int high = least(s, s->c->high, &m_h), low = least_low(s, &m_l);
    if (high < 0) return false;
    if (m_h < s->p && m_h < m_l) s->h->target[high] = KV_DROP;
    else if (!s->c->has_low || is_high(s, m_h)) return false;
    else {
        s->h->target[high] = s->c->low;
        if (m_l < s->p) s->h->target[low] = KV_DROP;
    }
    return true;
}

static bool check_high(const sections *s) {
    double mean;
    int i = least(s, s->c->high, &mean);
    if (i < 0 || is_high(s, mean) || (mean >= s->p && !s->c->has_low)) return false;
    s->h->target[i] = mean >= s->p ? s->c->low : KV_DROP;
    return true;
}

static bool check_low(const sections *s) {
    double mean;
    int i = least_low(s, &mean);
    if (i < 0 || mean >= s->p) return false;
    s->h->target[i] = KV_DROP;
    return true;
}

static void repeat(const sections *s, bool (*step)(const sections *s)) {
    for (int i = 0; (s->c->victims == 0 || i < s->c->victims) && step(s); i++) continue;
}

/* Tokens that left the window since the last decision, oldest first. */
static int next_leaving(const sections *s, int after) {
    int best = -1;
    for (int i = 0; i < s->h->n; i++) {
        int pos = (int)s->h->pos[i];
        if (pos <= after || pos < s->d->first_new || s->h->flags[i] & ITEM_SINK || s->now - pos < s->d->p->protect.recent) continue;
        if (best < 0 || s->h->pos[i] < s->h->pos[best]) best = i;
    }
    return best;
}

static void step_paper(const sections *s) {
    for (int i = next_leaving(s, -1); i >= 0; i = next_leaving(s, (int)s->h->pos[i])) {
        double mean = (double)s->h->score[i];
        if (s->h->target[i] == KV_DROP) continue;
        if (is_high(s, mean) || (mean >= s->p && !s->c->has_low)) {
            s->h->target[i] = s->c->high;
            repeat(s, check_high);
        } else if (mean >= s->p) {
            s->h->target[i] = s->c->low;
            repeat(s, check_low);
        } else {
            s->h->target[i] = KV_DROP;
        }
    }
}

static bool step_v1(const sections *s) {
    double m_h, m_l, total = 0;
    for (int i = 0; i < s->h->n; i++)
        if (s->h->target[i] != KV_DROP && isfinite(s->h->score[i])) total += (double)s->h->score[i];
    int high = least(s, s->c->high, &m_h), low = least_low(s, &m_l), victim = m_l < m_h || high < 0 ? low : high;
    if (!s->c->sig.normalise) total = 1;
    if (victim >= 0 && fmin(m_h, m_l) < (1 - s->c->p_l) * total) s->h->target[victim] = KV_DROP;
    else if (high >= 0 && s->c->has_low && m_h < (1 - s->c->p_h) * total) s->h->target[high] = s->c->low;
    else return false;
    return true;
}

void leankv_decode(const leankv *c, const decision *d, head_items *h) {
    sections s = {.c = c, .d = d, .h = h, .now = d->n_tokens, .outside = (uint8_t *)d->tmp};
    double per = c->base_decode == BASE_DECODE_KEPT ? h->n : d->n_tokens;
    s.p = leankv_alpha_l(c, d, h->layer) * d->scale / per;
    s.q = c->alpha_h * d->scale / per;
    for (int i = 0; i < h->n; i++) {
        s.outside[i] = outside_window(&s, i);
        if (s.outside[i]) h->flags[i] &= (uint8_t)~ITEM_RECENT; /* this stage's window counts the token that comes next */
        h->score[i] = (float)mean_of(&s, i);
        h->target[i] = h->tier_now[i] == 0 && s.outside[i] ? c->high : h->tier_now[i];
    }
    if (c->mode == LEANKV_PAPER) step_paper(&s);
    else repeat(&s, c->mode == LEANKV_V1 ? step_v1 : step_code);
    for (int i = 0; i < h->n && c->eager && c->has_low; i++)
        if (h->target[i] == c->low && h->tier_now[i] == c->low && s.outside[i] && (double)h->score[i] < s.p) h->target[i] = KV_DROP;
}
