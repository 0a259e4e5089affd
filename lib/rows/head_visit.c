/* SPDX-License-Identifier: MIT
 *
 * The visit of the rows of a linear head: see rows/head.h.
 */
#include "rows/head_parts.h"

#include "rows/elements.h"

/* What share of `whole` comes before i of `all`. */
static int64_t share_before(int64_t i, int64_t all, int64_t whole)
{
    return i == all ? whole : (int64_t)((double)i / (double)all * (double)whole);
}

/* The first counted row of the share of rows from i on: counted rows are dealt out evenly, so that
 * threads have as many of them each, wherever they are. */
static int64_t first_counted(const head *h, int64_t i)
{
    return share_before(i, h->job->rows, h->job->counted);
}

/* The first bad value of n elements of an input from `at` on. */
static void refuse_nonfinite(const head *h, int input, int64_t at, int64_t n, lk_block *block)
{
    real part[HEAD_CHUNK];
    for (int64_t end = at + n; at < end; at += HEAD_CHUNK) {
        const int64_t count = at_most(end - at, HEAD_CHUNK);
        reals_read(&h->job->in[input], at, count, part);
        const int64_t bad = elements_nonfinite(part, count);
        if (bad < 0)
            continue;
        lk_refuse(block, LK_NONFINITE_INPUT, input, at + bad, (double)part[bad]);
        return;
    }
}

/* Each block looks at its share of the parameters. */
static void check_parameters(const head *h, int64_t b, lk_block *block)
{
    const lk_job *job = h->job;
    const int64_t blocks = (job->rows + job->block_rows - 1) / job->block_rows;
    const int at[] = {h->of->side.weight, h->of->side.bias, h->of->side.norm_weight};
    for (int k = 0; k < 3; k++) {
        if (at[k] < 0 || !lk_has(job, at[k]))
            continue;
        const int64_t all = lk_tensor_count(&job->in[at[k]]);
        const int64_t first = share_before(b, blocks, all);
        refuse_nonfinite(h, at[k], first, share_before(b + 1, blocks, all) - first, block);
    }
}

/* The gradients of the hidden states of counted rows from q on, whose scores are E by now. */
static void back_rows(const head *h, const head_room *r, int64_t q, int64_t rows)
{
    const int hidden = h->of->side.hidden;
    const int64_t depth = h->own.depth;
    const int power = h->of->power(h->job);
    const lk_tensor *grad = &h->job->grad[hidden];
    const product_side e = product_vectors(r->scores[0], rows, head_apart(h->classes));
    const product_side by = head_weights(&h->own, 0, h->classes, true);
    reals_product(&e, &by, h->own.weight->dtype, h->classes, false, r->by_vector, depth,
                  r->products);
    for (int64_t k = 0; k < rows; k++) {
        const int64_t i = h->order[q + k];
        real *g = r->by_vector + k * depth;
        real *share = h->shares ? h->shares + (q + k) * depth : NULL;
        if (!h->live[q + k])
            memset(g, 0, (size_t)depth * sizeof *g);
        if (!h->live[q + k] && share)
            memset(share, 0, (size_t)depth * sizeof *g);
        else if (h->own.norm && h->live[q + k])
            head_norm_back(h, i, g, share, r->hidden[0]);
        if (grad->data)
            reals_write(grad, i * depth, depth, power, g);
    }
}

void head_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const head h = head_of(job);
    const head_loss *of = h.of;
    const head_room r = head_visit_room(&h, scratch);
    const lk_reduce *reduce = job->options;
    const int hidden = of->side.hidden, norm = of->side.norm_weight;
    const lk_tensor *grad = &job->grad[hidden];
    const bool back = grad->data || (norm >= 0 && job->grad[norm].data);
    const bool refuse = reduce->nonfinite == LK_REFUSE_NONFINITE;
    const int64_t b0 = first / job->block_rows, end = first_counted(&h, first + count);
    const int64_t together = head_visit_rows(&h);
    for (int64_t i = first; i < first + count; i++) {
        lk_block *mine = block + (i / job->block_rows - b0);
        if (refuse && i % job->block_rows == 0)
            check_parameters(&h, i / job->block_rows, mine);
        if (of->counts(job, i))
            continue;
        of->ignore(job, i, mine);
        if (grad->data)
            reals_clear(grad, i * h.own.depth, h.own.depth);
    }
    int64_t b = b0;
    for (int64_t q = first_counted(&h, first), rows; q < end; q += rows) {
        rows = at_most(end - q, together);
        if (!h.ahead)
            head_score(&h, &r, q, rows, 0, h.classes);
        for (int64_t k = 0; k < rows; k++) {
            const int64_t at = h.order[q + k] * h.own.depth;
            while (q + k >= first_counted(&h, at_most((b + 1) * job->block_rows, job->rows)))
                b++;
            if (refuse)
                refuse_nonfinite(&h, hidden, at, h.own.depth, block + (b - b0));
            h.live[q + k] = head_value(&h, &r, q + k, k, block + (b - b0));
            if (back && h.live[q + k])
                head_slopes(&h, &r, q + k, k, 0, h.classes);
        }
        if (back)
            back_rows(&h, &r, q, rows);
    }
}
