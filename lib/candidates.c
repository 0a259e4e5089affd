/* SPDX-License-Identifier: MIT
 *
 * A row of scores of candidates: see candidates.h.
 */
#include "candidates.h"

#include <math.h>

#include "vector/double.h"

int64_t lk_candidates_positive(const lk_job *job, int index, int64_t i)
{
    return job->in[index].data ? lk_int(&job->in[index], i) : i;
}

lk_status lk_candidates_check(const lk_job *job, int index, int64_t count, const char *what,
                              lk_error *error)
{
    char place[LK_PLACE_MAX];
    for (int64_t i = 0; i < job->rows; i++) {
        const int64_t y = lk_candidates_positive(job, index, i);
        if (y < 0 || y >= count)
            return lk_fail(job, error, LK_TARGET_OUT_OF_RANGE, index, i,
                           "%s is %lld; with %lld %s it must be in [0, %lld]",
                           lk_place(job, index, i, place), (long long)y, (long long)count, what,
                           (long long)count - 1);
    }
    return LK_OK;
}

/* The greatest, or NaN if one is. */
static double greatest(const double *x, int64_t n)
{
    double most = -(double)INFINITY;
    for (int64_t j = 0; j < n; j++) {
        if (isnan(x[j]))
            return x[j];
        most = x[j] > most ? x[j] : most;
    }
    return most;
}

static double fail(const lk_candidates *c)
{
    for (int64_t j = 0; j < c->n; j++)
        c->slope[j] = (double)NAN;
    return (double)NAN;
}

double lk_candidates_contrast(const lk_candidates *c, int64_t positive, double scale)
{
    const double top = greatest(c->score, c->n), d = scale * (c->score[positive] - top);
    double others = 0;
    if (!isfinite(top))
        return fail(c);
    for (int64_t j = 0; j < c->n; j++) {
        c->slope[j] = lk_exp(scale * (c->score[j] - top));
        others += j == positive ? 0 : c->slope[j];
    }
    const double own = c->slope[positive], sum = own + others;
    for (int64_t j = 0; j < c->n; j++)
        c->slope[j] *= scale / sum;
    c->slope[positive] = -scale * others / sum; /* p - 1 */
    return own > others ? lk_log1p(others / own) : lk_log(sum) - d;
}

/* log of the sum of e^(scale (x - top)). */
static double log_sum(const double *x, int64_t n, double top, double scale)
{
    double sum = 0;
    for (int64_t j = 0; j < n; j++)
        sum += lk_exp(scale * (x[j] - top));
    return lk_log(sum);
}

double lk_candidates_distil(const lk_candidates *c, double temperature, double scale)
{
    const double top = greatest(c->score, c->n), best = greatest(c->teacher, c->n);
    double sum = 0;
    if (c->n == 0)
        return 0;
    if (!isfinite(top) || !isfinite(best))
        return fail(c);
    const double norm = log_sum(c->score, c->n, top, scale);
    const double teacher_norm = log_sum(c->teacher, c->n, best, 1 / temperature);
    for (int64_t j = 0; j < c->n; j++) {
        const double p = scale * (c->score[j] - top) - norm;
        const double q = (c->teacher[j] - best) / temperature - teacher_norm, likely = lk_exp(q);
        sum += likely > 0 ? likely * (q - p) : 0;
        /* p - q; where they are close, without cancellation. */
        c->slope[j] = (fabs(p - q) < 1 ? likely * lk_expm1(p - q) : lk_exp(p) - likely) / scale;
    }
    return (sum > 0 ? sum : 0) / scale / scale;
}

double lk_candidates_margins(const lk_candidates *c, int64_t positive)
{
    const double others = (double)(c->n - 1);
    double sum = 0, all = 0;
    for (int64_t j = 0; j < c->n; j++) {
        const double e = (c->score[positive] - c->score[j]) -
                         (j == positive ? 0 : c->teacher[positive] - c->teacher[j]);
        sum += e * e / others;
        all += 2 * e / others;
        c->slope[j] = -2 * e / others;
    }
    c->slope[positive] = all;
    return isnan(sum) ? fail(c) : sum;
}
