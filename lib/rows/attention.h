/* SPDX-License-Identifier: MIT
 *
 * Attention over the words of a source, as scores or as probabilities: how much of it lies on one
 * word, how far it covers what earlier steps attended to, and its gradient.
 */
#ifndef LK_ATTENTION_H
#define LK_ATTENTION_H

#include "rows/class_row.h"
#include "rows/scalar.h"
#include "vector/tally.h"
#include "vector/vmath.h"

enum { MASKED = -1, NO_WORD = -2 };

/* What a step stores for the gradient of its attention. */
typedef struct step {
    double rho;                  /* factor of its gradient; 0 if the step is ignored */
    double copy;                 /* of logits: r_c; of probabilities: (1-g)/D */
    double top, sum;             /* of the softmax of the attention */
    double hit_top, hit, missed; /* of the positions that have the target; the sum over others */
} step;

/* The attention of one step, and what its coverage needs of the others. */
typedef struct attention {
    class_plan plan; /* of the scores */
    int64_t S;
    double coverage_weight;
    int64_t *ids;  /* [S] the source; MASKED where no attention goes */
    double *a;     /* [S] the attention of a step */
    double *c;     /* [S] the sum of it over the earlier steps */
    double *later; /* [S] F: the gradient that later steps contribute */
    double *d;     /* [S] the gradient that the coverage of all steps contributes */
    real *z;       /* [S] scores, exponentials, gradients; in whole strides */
} attention;

/* The attention of a step, to e->a, and the logarithm of the attention on the word y, both from
 * scores. The positions of the word are left out of the sum over the others, so that the gradient
 * keeps full precision where they have nearly all of the attention; they are summed separately, so
 * that the logarithm is precise where they have almost none. */
LK_STATIC double attention_of_scores(attention *e, step *s, const elem *x, int64_t y)
{
    const double lowest = -(double)INFINITY;
    int64_t n = 0;
    for (int64_t k = 0; k < e->S; k += CHUNK)
        class_scores(&e->plan, x + k, e->S - k < CHUNK ? e->S - k : CHUNK, e->z + k);
    for (int64_t i = 0; i < e->S; i++)
        if (e->ids[i] != MASKED)
            n++;
        else
            e->z[i] = -(real)INFINITY;
    *s = (step){.top = (double)class_max(e->z, padded_lanes(e->S)), .hit_top = lowest};
    if (n == 0) {
        memset(e->a, 0, (size_t)e->S * sizeof *e->a);
        s->sum = 1;
        return lowest;
    }
    for (int64_t i = 0; i < e->S; i++) {
        if (e->ids[i] != y)
            continue;
        e->a[i] = (double)e->z[i];
        s->hit_top = e->a[i] > s->hit_top ? e->a[i] : s->hit_top;
        e->z[i] = -(real)INFINITY;
    }
    const vec top = v_set((real)s->top);
    for (int64_t k = 0; k < e->S; k += CHUNK) {
        tally sum = {0};
        for (int64_t i = k; i < e->S && i < k + CHUNK; i += LANES) {
            const vec z = v_exp_nonpos(v_read(e->z + i) - top);
            v_write(e->z + i, z);
            tally_add(&sum, z);
        }
        s->missed += (double)tally_sum(sum);
    }
    s->sum = s->missed;
    for (int64_t i = 0; i < e->S; i++) {
        if (e->ids[i] != y) {
            e->a[i] = (double)e->z[i];
            continue;
        }
        s->hit += s->hit_top > lowest ? lk_exp(e->a[i] - s->hit_top) : 0;
        e->a[i] = lk_exp(e->a[i] - s->top);
        s->sum += e->a[i];
    }
    for (int64_t i = 0; i < e->S; i++)
        e->a[i] /= s->sum;
    if (isnan(s->sum))
        return s->sum;
    return s->hit > 0 ? (s->hit_top - s->top) + lk_log(s->hit) - lk_log(s->sum) : lowest;
}

/* The same of attention that is given as probabilities. */
LK_STATIC double attention_of_shares(attention *e, step *s, const elem *x, int64_t y)
{
    double on_word = 0;
    *s = (step){.sum = 1};
    for (int64_t i = 0; i < e->S; i++) {
        e->a[i] = e->ids[i] != MASKED ? (double)r_load(x + i) : 0;
        on_word += e->ids[i] == y ? e->a[i] : 0;
    }
    return lk_log(on_word);
}

/* The coverage loss of a step: sum of min(a, c). Stores which of the two was the smaller. */
LK_STATIC double attention_cover(attention *e, unsigned char *side)
{
    double sum = 0;
    for (int64_t i = 0; i < e->S; i++) {
        const double a = e->a[i], c = e->c[i];
        sum += a < c || isnan(a) ? a : c;
        if (side)
            side[i] = a < c ? 2 : a == c;
    }
    return sum;
}

/* d: the gradient with respect to the attention that the coverage of this step (by 2 H) and of
 * later ones contributes. */
LK_STATIC void attention_want(const attention *e, double rho, const unsigned char *side)
{
    for (int64_t i = 0; i < e->S; i++)
        e->d[i] = e->coverage_weight * ((side ? rho * 0.5 * side[i] : 0) + e->later[i]);
}

/* The gradient of the scores at x, possibly in place. e->a is their softmax. Relative to the
 * position with most attention, so that nothing cancels where it has nearly all. */
LK_STATIC void attention_slopes(const attention *e, const step *s, const elem *x, int64_t y)
{
    const double copied = scalar_times(s->rho, s->copy), missed = s->missed / s->sum;
    int64_t most = 0;
    double mean = 0;
    for (int64_t i = 1; i < e->S; i++)
        most = e->a[i] > e->a[most] ? i : most;
    for (int64_t i = 0; i < e->S; i++)
        mean += e->a[i] * (e->d[i] - e->d[most]);
    for (int64_t i = 0; i < e->S; i++) {
        double g = e->a[i] * ((e->d[i] - e->d[most]) - mean);
        if (e->ids[i] != y)
            g += copied * e->a[i];
        else if (s->hit > 0)
            g -= copied * (lk_exp((double)r_load(x + i) - s->hit_top) / s->hit) * missed;
        e->z[i] = (real)g;
    }
}

/* Masked positions have no gradient. */
LK_STATIC void attention_store(const attention *e, elem *grad)
{
    for (int64_t i = 0; i < e->S; i++)
        if (e->ids[i] == MASKED)
            e->z[i] = 0;
    for (int64_t i = 0; i < e->S; i += LANES) {
        const int64_t n = LK_TAIL(i, e->S);
        v_store_tail(grad + i, n, v_read_tail(e->z + i, n, 0));
    }
}

/* The gradient of the attention of a step, given as scores x or as probabilities. `side` is what
 * attention_cover has stored; NULL where the step itself has no coverage. */
LK_STATIC void attention_of_scores_back(const attention *e, const step *s, const elem *x, int64_t y,
                                        const unsigned char *side, elem *grad)
{
    attention_want(e, s->rho, side);
    attention_slopes(e, s, x, y);
    attention_store(e, grad);
}

LK_STATIC void attention_of_shares_back(const attention *e, const step *s, int64_t y,
                                        const unsigned char *side, elem *grad)
{
    attention_want(e, s->rho, side);
    for (int64_t i = 0; i < e->S; i++)
        e->z[i] = (real)(e->ids[i] == y ? e->d[i] - scalar_times(s->rho, s->copy) : e->d[i]);
    attention_store(e, grad);
}

#endif
