/* SPDX-License-Identifier: MIT
 *
 * Losses whose rows are class scores, of few classes: rows/class.h's loop over rows, a group at a
 * time, one row a lane.
 */
#include "rows/class.h"
#include "rows/few.h"
#include "vector/wide.h"

_Static_assert((int)LANES <= (int)CLASS_GROUP, "a group of rows has room for its targets");

/* The state of one run over rows. */
typedef struct few_visit {
    const lk_job *job;
    const class_plan *p;
    class_targets_of targets_of;
    double *value;   /* see classwise_rows */
    int64_t apart;   /* from row to row, in elements */
    lk_block *block; /* that of the next group, before block_end */
    int64_t block_end;
    double sum[CLASSWISE_SUMS][LANES]; /* of the block, a lane each */
    void *scratch;
} few_visit;

/* class_refuse for a row whose classes may lie apart. */
static bool refuse(const few_visit *v, int input, int64_t i, const elem *x)
{
    elem row[FEW];
    for (int64_t k = 0; k < v->p->classes; k++)
        memcpy(row + k, x + k * v->p->inner, sizeof *row);
    return class_refuse(v->p, input, i, row, v->block);
}

/* Set up the rows from `first` on with their targets. */
static void begin(const few_visit *v, int64_t first, const class_targets *t, few_rows *r)
{
    const lk_job *job = v->job;
    const classwise_options *o = job->options;
    const int64_t none = r->t ? -1 : 0; /* y in probability form */
    for (int k = 0; k < LANES; k += HALF_LANES) {
        half_mask counts, y;
        memcpy(&counts, t->counts + k, sizeof counts);
        memcpy(&y, t->y + k, sizeof y);
        half_mask_put(r->live + k, counts);
        half_mask_put(r->y + k, (counts & y) | ~counts | none);
        half_write(r->rho + k, half_read(t->main + k) * v->p->main);
        half_write(r->zeta + k, half_read(t->z + k) * v->p->z);
    }
    for (int k = 0; job->in[GRAD_OUTPUT].data && k < r->count; k++) {
        const double upstream = t->counts[k] ? real_or_one(job, GRAD_OUTPUT, t->up[k]) : 0;
        r->rho[k] *= upstream;
        r->zeta[k] *= upstream;
    }
    for (int k = 0; o->reduce.nonfinite == LK_REFUSE_NONFINITE && k < r->count; k++) {
        bool bad = r->live[k] && refuse(v, LOGITS, first + k, r->x + k * v->apart);
        bad |= r->live[k] && r->t && refuse(v, TARGETS, first + k, r->t + k * v->apart);
        r->live[k] = bad ? 0 : r->live[k];
    }
}

/* A weight times a part of the loss; 0 where the weight is. */
LK_INLINE wide_half weighed(const double *weight, const double *part)
{
    const wide_half zero = {0}, w = half_read(weight);
    return half_where(w != zero, w * half_read(part));
}

static void end(few_visit *v, int64_t first, const class_targets *t, const few_rows *r)
{
    const lk_job *job = v->job;
    const classwise_options *o = job->options;
    double main[LANES], z[LANES];
    for (int k = 0; k < LANES; k += HALF_LANES) {
        half_write(main + k, weighed(t->main + k, r->main + k));
        half_write(z + k, weighed(t->z + k, r->z_part + k));
        half_write(v->sum[MAIN] + k, half_read(v->sum[MAIN] + k) + half_read(main + k));
        half_write(v->sum[Z] + k, half_read(v->sum[Z] + k) + half_read(z + k));
    }
    for (int k = 0; job->out_wanted && k < r->count; k++) {
        v->sum[SUM_NLL][k] += (double)r->nll[k];
        v->sum[SUM_RIGHT][k] += r->y[k] >= 0 && r->argmax[k] == r->y[k];
        put_row(job, NLL, first + k, (double)r->nll[k]);
        put_row(job, LSE, first + k, (double)r->lse[k]);
        put_row(job, ENTROPY, first + k, (double)r->entropy[k]);
        put_row(job, PREDICTED, first + k, (double)r->argmax[k]);
    }
    for (int k = 0; (v->value || o->reduce.reduction == LK_NONE) && k < r->count; k++)
        put_parts(job, v->value, first + k, main[k], z[k]);
}

/* The sums of the block are complete. */
static void end_block(few_visit *v)
{
    for (int i = 0; i < CLASSWISE_SUMS; i++)
        for (int k = 0; k < LANES; k++) {
            v->block->sum[i] += v->sum[i][k];
            v->sum[i][k] = 0;
        }
}

/* Rows that are evenly apart. A group never spans two blocks. */
static void some_rows(few_visit *v, int64_t first, int64_t count, few_rows r)
{
    class_targets t = {0};
    for (const int64_t stop = first + count; first < stop; first += r.count) {
        if (first == v->block_end) {
            end_block(v);
            v->block_end += v->job->block_rows;
            v->block++;
        }
        const int64_t next = stop < v->block_end ? stop : v->block_end;
        r.count = next - first < LANES ? (int)(next - first) : LANES;
        if (r.count < LANES)
            t = (class_targets){0};
        v->targets_of(v->job, first, r.count, &t);
        begin(v, first, &t, &r);
        few_compute(v->p, &r, v->scratch);
        end(v, first, &t, &r);
        const int64_t step = r.count * v->apart;
        r.x += step;
        r.t = r.t ? r.t + step : NULL;
        r.grad_x = r.grad_x ? r.grad_x + step : NULL;
        r.grad_t = r.grad_t ? r.grad_t + step : NULL;
    }
}

void classwise_few(const lk_job *job, const class_plan *p, class_targets_of targets_of,
                   double *value, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    few_visit v = {.job = job, .p = p, .targets_of = targets_of, .value = value};
    const elem *x = job->in[LOGITS].data;
    const elem *t = job->form[TARGETS] == PROBABILITY ? job->in[TARGETS].data : NULL;
    elem *grad_x = job->grad[LOGITS].data, *grad_t = job->grad[TARGETS].data;
    v.apart = p->inner > 1 ? 1 : p->width;
    v.block = block;
    v.block_end = first + job->block_rows;
    v.scratch = scratch;
    for (int64_t i = first, rows; i < first + count; i += rows) {
        /* Where the classes of a row are not contiguous, `inner` rows lie side by side. */
        const int64_t j = i % p->inner, place = (i - j) * p->width + j, left = first + count - i;
        rows = p->inner > 1 && p->inner - j < left ? p->inner - j : left;
        some_rows(&v, i, rows,
                  (few_rows){.x = x + place,
                             .t = t ? t + place : NULL,
                             .grad_x = grad_x ? grad_x + place : NULL,
                             .grad_t = grad_t ? grad_t + place : NULL});
    }
    end_block(&v);
}
