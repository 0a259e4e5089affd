/* SPDX-License-Identifier: MIT
 *
 * The passes over the classes of a linear head: see rows/head.h.
 */
#include "rows/head_parts.h"

void head_ahead(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const head h = head_of(job);
    const int64_t classes = at_most(first + count, h.classes) - first;
    if (!h.ahead || classes <= 0 || job->counted == 0)
        return;
    const head_room r = head_pass_room(&h, scratch);
    real *const to[] = {h.scores[0] + first, h.scores[1] ? h.scores[1] + first : NULL};
    head_make_scores(&h, &r, 0, job->counted, first, classes, to, head_apart(h.classes));
}

/* E of some counted rows from q on for some classes. A row without is not multiplied: 0 times what
 * is not finite is not 0. */
static void pass_slopes(const head *h, const head_room *r, int64_t q, int64_t rows, int64_t first,
                        int64_t count)
{
    const int64_t depth = h->own.depth;
    head_score(h, r, q, rows, first, count);
    for (int64_t k = 0; k < rows; k++) {
        if (h->live[q + k]) {
            head_slopes(h, r, q + k, k, first, count);
            continue;
        }
        memset(head_scores_at(r, 0, k, count), 0, (size_t)count * sizeof(real));
        memset(r->hidden[0] + k * depth, 0, (size_t)depth * sizeof(real));
    }
}

/* The gradients of weight, if `by_weight`, and of bias, for the classes of a part. */
static void back_part(const head *h, const head_room *r, int64_t first, int64_t count,
                      bool by_weight)
{
    const lk_job *job = h->job;
    const int at = h->of->side.bias, power = h->of->power(job);
    const lk_tensor *bias = at < 0 ? NULL : &job->grad[at];
    const int64_t depth = h->own.depth;
    double sum[HEAD_CLASSES] = {0};
    memset(r->by_vector, 0, (size_t)(count * depth) * sizeof(real));
    for (int64_t q = 0, rows; q < job->counted; q += rows) {
        rows = at_most(job->counted - q, head_pass_rows(h));
        pass_slopes(h, r, q, rows, first, count);
        for (int64_t k = 0; bias && bias->data && k < rows; k++)
            for (int64_t c = 0; c < count; c++)
                sum[c] += (double)r->scores[0][k * head_apart(count) + c];
        const product_side e = {
            .at = r->scores[0], .count = count, .apart = 1, .step = head_apart(count)};
        const product_side by = {.at = r->hidden[0], .count = depth, .apart = 1, .step = depth};
        if (by_weight)
            product(&e, &by, rows, q > 0, r->by_vector, depth, r->products);
    }
    if (by_weight)
        reals_write(&job->grad[h->of->side.weight], first * depth, count * depth, power,
                    r->by_vector);
    real sums[HEAD_CLASSES];
    for (int64_t c = 0; c < count; c++)
        sums[c] = (real)sum[c];
    if (bias && bias->data)
        reals_write(bias, first, count, power, sums);
}

static void back_classes(const lk_job *job, int64_t first, int64_t count, void *scratch,
                         bool by_weight)
{
    const head h = head_of(job);
    const head_loss *of = h.of;
    const head_room r = head_pass_room(&h, scratch);
    const int at = of->side.bias;
    const int64_t last = first + count, end = at_most(last, h.classes);
    for (int64_t k = first, classes; k < end; k += classes) {
        classes = at_most(end - k, head_pass_classes(&h));
        back_part(&h, &r, k, classes, by_weight);
    }
    /* Classes that are not scored. */
    const int64_t rest = first > h.classes ? first : h.classes;
    if (rest < last && by_weight)
        reals_clear(&job->grad[of->side.weight], rest * h.own.depth, (last - rest) * h.own.depth);
    if (rest < last && at >= 0 && job->grad[at].data)
        reals_clear(&job->grad[at], rest, last - rest);
}

void head_back_weight(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    back_classes(job, first, count, scratch, true);
}

void head_back_bias(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const head_loss *of = job->loss->driver;
    if (!job->grad[of->side.weight].data)
        back_classes(job, first, count, scratch, false);
}

void head_back_norm(const lk_job *job, int64_t first, int64_t count, void *scratch)
{
    const head h = head_of(job);
    const int power = h.of->power(job);
    (void)scratch;
    for (int64_t k = first; h.shares && k < first + count; k++) {
        double sum = 0;
        for (int64_t q = 0; q < job->counted; q++)
            sum += (double)h.shares[q * h.own.depth + k];
        real x = (real)sum;
        reals_write(&job->grad[h.of->side.norm_weight], k, 1, power, &x);
    }
}
