/* SPDX-License-Identifier: MIT
 *
 * Losses whose rows are class scores: see rows/class.h.
 */
#include "rows/class.h"

#include "rows/few.h"
#include "vector/wide.h"

lk_status classwise_check(const lk_job *job, lk_error *error)
{
    const classwise_options *o = job->options;
    const int64_t width = job->size['C' - 'A'];
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const bool shaped = o->row.focal_gamma > 0 || o->row.poly1 != 0;
    if (width == 0 && job->rows > 0)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, LOGITS, -1,
                       "logits has no classes; the class axis must have at least 1");
    if (soft && (job->out_wanted & (1u << NLL | 1u << ACCURACY | 1u << PERPLEXITY)))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "nll, accuracy and perplexity need class indices as targets, not "
                       "probabilities");
    if (o->row.vocab_size > width)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "vocab_size is %lld; with %lld classes it must be in [1, %lld]",
                       (long long)o->row.vocab_size, (long long)width, (long long)width);
    if (shaped && soft)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "focal_gamma and poly1 need class indices as targets, not probabilities");
    if (shaped && o->row.label_smoothing > 0)
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "focal_gamma and poly1 exclude label_smoothing; set one of them to 0");
    if (o->row.target_scaling > 0 && (soft || shaped || o->row.label_smoothing > 0))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "target_scaling needs class indices as targets, and excludes "
                       "label_smoothing, focal_gamma and poly1");
    if (soft && lk_given(job, "ignore_index"))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "ignore_index needs class indices as targets; with probabilities use mask");
    if (o->row.smoothing_mode == CLASS_OTHERS &&
        (soft || (job->rows > 0 && classwise_classes(job) == 1)))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "smoothing_mode=others needs class indices as targets and at least 2 "
                       "classes");
    return LK_OK;
}

lk_status classwise_no_class(const lk_job *job, int input, int64_t i, lk_error *error)
{
    const classwise_options *o = job->options;
    return lk_refuse_target(job, error, input, i, classwise_classes(job), o->row.ignore_index);
}

void classwise_total_weight(lk_job *job)
{
    const bool weighted = job->in[CLASS_WEIGHT].data;
    job->total_weight = weighted ? 0 : (double)classwise_classes(job);
    for (int64_t k = 0; weighted && k < classwise_classes(job); k++)
        job->total_weight += real_or_one(job, CLASS_WEIGHT, k);
    job->weightless = weighted;
    for (int64_t k = 0; job->weightless && k < classwise_classes(job); k++)
        job->weightless = real_or_one(job, CLASS_WEIGHT, k) == 0;
}

/* Rows. */

/* The state of one run over rows. */
typedef struct visit {
    const lk_job *job;
    lk_block *block; /* the block of the next row to finish, before block_end */
    int64_t block_end;
    class_plan plan;
    class_row row[CLASS_TOGETHER]; /* the rows being computed */
    plain_gradient left;
    int slot;      /* long rows: which of `row` is next, while the other has a pending gradient */
    void *kept;    /* scratch for exponentials, or NULL */
    double *value; /* where the main and z parts of each row are stored; NULL: they are not */
} visit;

bool class_refuse(const class_plan *p, int input, int64_t row, const elem *x, lk_block *block)
{
    const int64_t inner = p->inner, k = elements_nonfinite(x, p->classes);
    if (k < 0)
        return false;
    /* The flat index of class k of the row in the caller's tensor. */
    const int64_t flat = (row / inner * p->width + k) * inner + row % inner;
    if (block->bad == LK_OK || input < block->bad_input ||
        (input == block->bad_input && flat < block->bad_index)) {
        block->bad = LK_NONFINITE_INPUT;
        block->bad_input = input;
        block->bad_index = flat;
    }
    return true;
}

/* Consecutive rows in memory, `width` apart; `first` is the index of the first one in the call.
 * NULL: that tensor was not given or requested. */
typedef struct class_batch {
    int64_t first;
    const elem *x, *t;
    elem *grad_x, *grad_t;
} class_batch;

/* The rows that follow the first `rows` of a batch, which are `width` apart. */
LK_INLINE class_batch batch_after(class_batch at, int64_t rows, int64_t width)
{
    const int64_t step = rows * width;
    return (class_batch){.first = at.first + rows,
                         .x = at.x + step,
                         .t = at.t ? at.t + step : NULL,
                         .grad_x = at.grad_x ? at.grad_x + step : NULL,
                         .grad_t = at.grad_t ? at.grad_t + step : NULL};
}

/* See class_main. */
LK_INLINE void weigh_classes(const class_plan *p, int count, class_targets *t)
{
    for (int k = 0; p->weight && k < count; k++)
        t->main[k] = t->counts[k] ? class_main(p, t->y[k], t->main[k]) : 0;
}

/* Set up row k of a batch with its target. True if the row counts and must be computed. */
LK_INLINE bool begin_row(visit *v, const class_batch *at, int k, const class_targets *target,
                         class_row *row)
{
    const lk_job *job = v->job;
    const classwise_options *o = job->options;
    const int64_t i = at->first + k, place = k * v->plan.width;
    *row = (class_row){.x = at->x + place,
                       .t = at->t ? at->t + place : NULL,
                       .y = -1,
                       .grad_x = at->grad_x ? at->grad_x + place : NULL,
                       .grad_t = at->grad_t ? at->grad_t + place : NULL,
                       .argmax = -1};
    if (!target->counts[k]) {
        class_zero(&v->plan, row);
        return false;
    }
    const bool given = job->in[GRAD_OUTPUT].data;
    const double upstream = given ? real_or_one(job, GRAD_OUTPUT, target->up[k]) : 1;
    row->y = row->t ? -1 : target->y[k];
    row->rho = target->main[k] * v->plan.main * upstream;
    row->zeta = target->z[k] * v->plan.z * upstream;
    if (o->reduce.nonfinite == LK_REFUSE_NONFINITE) {
        const bool bad = class_refuse(&v->plan, LOGITS, i, row->x, v->block);
        if ((row->t && class_refuse(&v->plan, TARGETS, i, row->t, v->block)) || bad)
            return false;
    }
    return true;
}

void classwise_put(const lk_job *job, int64_t i, double main_weight, double z_weight,
                   const class_row *row, double *value, lk_block *block)
{
    const double main = main_weight != 0 ? main_weight * row->main : 0;
    const double z = z_weight != 0 ? z_weight * row->z_part : 0;
    block->sum[MAIN] += main;
    block->sum[Z] += z;
    block->sum[SUM_NLL] += (double)row->nll;
    block->sum[SUM_RIGHT] += row->y >= 0 && row->argmax == row->y;
    put_parts(job, value, i, main, z);
    put_row(job, NLL, i, (double)row->nll);
    put_row(job, LSE, i, (double)row->lse);
    put_row(job, ENTROPY, i, (double)row->entropy);
    put_row(job, PREDICTED, i, (double)row->argmax);
}

LK_INLINE void end_row(visit *v, int64_t i, double main_weight, double z_weight,
                       const class_row *row)
{
    if (i == v->block_end) {
        v->block_end += v->job->block_rows;
        v->block++;
    }
    classwise_put(v->job, i, main_weight, z_weight, row, v->value, v->block);
}

/* Compute the contiguous rows of a batch, as many at a time as rows/class_row.h takes. */
static void some_rows(visit *v, class_targets_of targets_of, class_batch at, int64_t count)
{
    const int most = class_together(v->plan.width);
    class_row *row[CLASS_TOGETHER], *live[CLASS_TOGETHER];
    class_targets target;
    for (int64_t left = count; left > 0; left -= most) {
        const int rows = left < most ? (int)left : most;
        int lives = 0;
        targets_of(v->job, at.first, rows, &target);
        weigh_classes(&v->plan, rows, &target);
        for (int k = 0; k < rows; k++) {
            const int slot = most > 1 ? k : v->slot;
            row[k] = &v->row[slot];
            if (!begin_row(v, &at, k, &target, row[k]))
                continue;
            class_keep(&v->plan, row[k], v->kept, slot);
            live[lives++] = row[k];
            v->slot = 1 - v->slot;
        }
        if (v->plan.plain)
            plain_compute(&v->plan, live, lives, &v->left);
        else
            class_compute(&v->plan, live, lives);
        for (int k = 0; k < rows; k++)
            end_row(v, at.first + k, target.main[k], target.z[k], row[k]);
        at = batch_after(at, rows, v->plan.width);
    }
    plain_settle(&v->plan, &v->left);
}

/* The number of rows of a tile, where the classes of a row are not contiguous. */
static int64_t tile_rows(const lk_job *job)
{
    int64_t row = job->size['C' - 'A'] * (int64_t)sizeof(elem);
    int64_t rows = 256 * 1024 / (row > 0 ? row : 1);
    return rows < 1 ? 1 : rows > 64 ? 64 : rows;
}

static int64_t inner_size(const lk_job *job)
{
    const classwise_options *o = job->options;
    int64_t inner = 1;
    for (int axis = 1; o->class_dim == 1 && axis < job->lead_rank; axis++)
        inner *= job->lead[axis];
    return inner;
}

size_t classwise_scratch(const lk_job *job)
{
    if (job->size['C' - 'A'] <= FEW)
        return few_scratch(job->size['C' - 'A']);
    size_t tile = (size_t)(tile_rows(job) * job->size['C' - 'A']) * sizeof(elem);
    size_t tiles = 1 + (job->form[TARGETS] == PROBABILITY ? 2 : 0);
    return class_kept_size(job->size['C' - 'A']) + (inner_size(job) > 1 ? tile * tiles : 0);
}

/* Copy rows x classes of a tensor whose classes have the stride `inner` to and from contiguous
 * rows. */
static void gather(const elem *from, int64_t rows, int64_t classes, int64_t inner, elem *to)
{
    for (int64_t k = 0; k < classes; k++)
        for (int64_t i = 0; i < rows; i++)
            memcpy(to + i * classes + k, from + k * inner + i, sizeof(elem));
}

static void scatter(const elem *from, int64_t rows, int64_t classes, int64_t inner, elem *to)
{
    for (int64_t k = 0; k < classes; k++)
        for (int64_t i = 0; i < rows; i++)
            memcpy(to + k * inner + i, from + i * classes + k, sizeof(elem));
}

static void strided_rows(visit *v, class_targets_of targets_of, int64_t first, int64_t count,
                         elem *x)
{
    const lk_job *job = v->job;
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const int64_t width = v->plan.width, inner = v->plan.inner, most = tile_rows(job);
    const elem *logits = job->in[LOGITS].data, *targets = job->in[TARGETS].data;
    elem *grad = job->grad[LOGITS].data, *grad_targets = job->grad[TARGETS].data;
    elem *t = x + most * width, *grad_t = t + most * width;
    for (int64_t i = first, rows; i < first + count; i += rows) {
        int64_t j = i % inner, place = i / inner * width * inner + j;
        rows = first + count - i < most ? first + count - i : most;
        rows = inner - j < rows ? inner - j : rows;
        gather(logits + place, rows, width, inner, x);
        if (soft)
            gather(targets + place, rows, width, inner, t);
        some_rows(v, targets_of,
                  (class_batch){.first = i,
                                .x = x,
                                .t = soft ? t : NULL,
                                .grad_x = grad ? x : NULL,
                                .grad_t = grad_targets ? grad_t : NULL},
                  rows);
        if (grad)
            scatter(x, rows, width, inner, grad + place);
        if (grad_targets)
            scatter(grad_t, rows, width, inner, grad_targets + place);
    }
}

/* Rows of few classes, a group at a time. */

_Static_assert((int)CLASS_GROUP % (int)LANES == 0, "targets are those of whole groups of rows");

/* The state of one run over rows. */
typedef struct few_visit {
    const lk_job *job;
    const few_plan *plan;
    class_targets_of targets_of;
    double *value;   /* see classwise_rows */
    bool has_z;      /* the loss has a second part; else zeta and z_part stay 0 */
    int64_t apart;   /* from row to row, in elements */
    lk_block *block; /* that of the next group, before block_end */
    int64_t block_end;
    double sum[CLASSWISE_SUMS][STRIDE]; /* of the block: each STRIDE-th row */
    int lane;                           /* the sum of the next row */
} few_visit;

/* class_refuse for a row whose classes may lie apart. */
static bool few_refuse(const few_visit *v, int input, int64_t i, const elem *x)
{
    elem row[FEW];
    for (int64_t k = 0; k < v->plan->row->classes; k++)
        memcpy(row + k, x + k * v->plan->row->inner, sizeof *row);
    return class_refuse(v->plan->row, input, i, row, v->block);
}

/* Set up the rows from `first` on with their targets, of which they are the `from`-th and more. */
static void few_begin(const few_visit *v, int64_t first, const class_targets *t, int from,
                      few_rows *r)
{
    const lk_job *job = v->job;
    const classwise_options *o = job->options;
    const double main = v->plan->row->main, z = v->plan->row->z;
    const int64_t none = r->t ? -1 : 0; /* y in probability form */
    half_mask counts[WIDE_PARTS], y[WIDE_PARTS];
    UNROLLED
    for (int h = 0; h < WIDE_PARTS; h++) {
        const int k = h * HALF_LANES;
        v_copy(&counts[h], t->counts + from + k, sizeof *counts);
        v_copy(&y[h], t->y + from + k, sizeof *y);
        y[h] = (counts[h] & y[h]) | ~counts[h] | none;
        half_write(r->rho + k, half_read(t->main + from + k) * main);
        if (v->has_z)
            half_write(r->zeta + k, half_read(t->z + from + k) * z);
    }
    const mask live = half_mask_join(counts), target = half_mask_join(y);
    v_copy(r->live, &live, sizeof live);
    v_copy(r->y, &target, sizeof target);
    for (int k = 0; job->in[GRAD_OUTPUT].data && k < r->count; k++) {
        const int of = from + k;
        const double upstream = t->counts[of] ? real_or_one(job, GRAD_OUTPUT, t->up[of]) : 0;
        r->rho[k] *= upstream;
        if (v->has_z)
            r->zeta[k] *= upstream;
    }
    for (int k = 0; o->reduce.nonfinite == LK_REFUSE_NONFINITE && k < r->count; k++) {
        bool bad = r->live[k] && few_refuse(v, LOGITS, first + k, r->x + k * v->apart);
        bad |= r->live[k] && r->t && few_refuse(v, TARGETS, first + k, r->t + k * v->apart);
        r->live[k] = bad ? 0 : r->live[k];
    }
}

/* A weight times a part of the loss; 0 where the weight is. */
LK_INLINE wide_half weighed(const double *weight, const double *part)
{
    const wide_half zero = {0}, w = half_read(weight);
    return half_where(w != zero, w * half_read(part));
}

/* The results that are wanted of each row. */
static void few_put(few_visit *v, int64_t first, const class_targets *t, int from,
                    const few_rows *r)
{
    const lk_job *job = v->job;
    for (int k = 0; k < r->count; k++) {
        const double main = t->main[from + k], z = t->z[from + k];
        v->sum[SUM_NLL][v->lane + k] += (double)r->nll[k];
        v->sum[SUM_RIGHT][v->lane + k] += r->y[k] >= 0 && r->argmax[k] == r->y[k];
        put_row(job, NLL, first + k, (double)r->nll[k]);
        put_row(job, LSE, first + k, (double)r->lse[k]);
        put_row(job, ENTROPY, first + k, (double)r->entropy[k]);
        put_row(job, PREDICTED, first + k, (double)r->argmax[k]);
        put_parts(job, v->value, first + k, main != 0 ? main * r->main[k] : 0,
                  z != 0 ? z * r->z_part[k] : 0);
    }
}

static void few_end(few_visit *v, int64_t first, const class_targets *t, int from,
                    const few_rows *r)
{
    UNROLLED
    for (int k = 0; k < LANES; k += HALF_LANES) {
        double *sum = v->sum[MAIN] + v->lane + k, *sum_z = v->sum[Z] + v->lane + k;
        half_write(sum, half_read(sum) + weighed(t->main + from + k, r->main + k));
        if (v->has_z)
            half_write(sum_z, half_read(sum_z) + weighed(t->z + from + k, r->z_part + k));
    }
    if (v->plan->row->want_rows)
        few_put(v, first, t, from, r);
    v->lane = (v->lane + LANES) % STRIDE;
}

/* The sums of the block are complete. */
static void few_end_block(few_visit *v)
{
    for (int i = 0; i < CLASSWISE_SUMS; i++)
        for (int k = 0; k < STRIDE; k++) {
            v->block->sum[i] += v->sum[i][k];
            v->sum[i][k] = 0;
        }
    v->lane = 0;
}

/* Rows that are evenly apart. A group never spans two blocks. */
static void few_some(few_visit *v, int64_t first, int64_t count, few_rows *r)
{
    class_targets t = {0};
    v->lane = 0;
    for (const int64_t stop = first + count; first < stop;) {
        if (first == v->block_end) {
            few_end_block(v);
            v->block_end += v->job->block_rows;
            v->block++;
        }
        const int64_t next = stop < v->block_end ? stop : v->block_end;
        const int rows = next - first < CLASS_GROUP ? (int)(next - first) : CLASS_GROUP;
        if (rows < CLASS_GROUP)
            t = (class_targets){0};
        v->targets_of(v->job, first, rows, &t);
        weigh_classes(v->plan->row, rows, &t);
        for (int from = 0; from < rows; from += r->count, first += r->count) {
            r->count = rows - from < LANES ? rows - from : LANES;
            few_begin(v, first, &t, from, r);
            few_compute(v->plan, r);
            few_end(v, first, &t, from, r);
            const int64_t step = r->count * v->apart;
            r->x += step;
            r->t = r->t ? r->t + step : NULL;
            r->grad_x = r->grad_x ? r->grad_x + step : NULL;
            r->grad_t = r->grad_t ? r->grad_t + step : NULL;
        }
    }
}

static void few_run(const lk_job *job, const class_plan *p, class_targets_of targets_of,
                    double *value, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    const classwise_options *o = job->options;
    const elem *x = job->in[LOGITS].data;
    const elem *t = job->form[TARGETS] == PROBABILITY ? job->in[TARGETS].data : NULL;
    elem *grad_x = job->grad[LOGITS].data, *grad_t = job->grad[TARGETS].data;
    const bool keep = t ? p->minus_entropy || grad_t : p->off > 0;
    const few_plan plan = few_plan_make(p, keep, scratch);
    few_visit v = {.job = job, .plan = &plan, .targets_of = targets_of, .value = value};
    v.has_z = o->row.z_loss != 0;
    v.apart = p->inner > 1 ? 1 : p->width;
    v.block = block;
    v.block_end = first + job->block_rows;
    for (int64_t i = first, rows; i < first + count; i += rows) {
        /* Where the classes of a row are not contiguous, `inner` rows lie side by side. */
        const int64_t j = i % p->inner, place = (i - j) * p->width + j, left = first + count - i;
        rows = p->inner > 1 && p->inner - j < left ? p->inner - j : left;
        few_rows r = {.x = x + place,
                      .t = t ? t + place : NULL,
                      .grad_x = grad_x ? grad_x + place : NULL,
                      .grad_t = grad_t ? grad_t + place : NULL};
        few_some(&v, i, rows, &r);
    }
    few_end_block(&v);
}

void classwise_factors(const lk_job *job, class_plan *p)
{
    const classwise_options *o = job->options;
    const double upstream = o->reduce.reduction == LK_NONE ? 1 : real_or_one(job, GRAD_OUTPUT, 0);
    const double main = fabs(job->scale[MAIN] * upstream);
    const double z = fabs(job->scale[Z] * upstream * p->z_loss);
    p->power = elements_power(main > z ? main : z);
    p->main = ldexp(job->scale[MAIN], -p->power);
    p->z = p->z_loss == 0 ? 0 : ldexp(job->scale[Z], -p->power);
}

/* Multiply the gradient of some rows by 2^power. */
static void scale_rows(const class_plan *p, elem *grad, int64_t first, int64_t count)
{
    const int64_t inner = p->inner, width = p->width;
    if (inner == 1)
        elements_scale(grad + first * width, count * width, p->power);
    for (int64_t i = first; inner > 1 && i < first + count; i++)
        for (int64_t k = 0; k < width; k++)
            elements_scale(grad + (i / inner * width + k) * inner + i % inner, 1, p->power);
}

/* Rows that are computed one after another, or a few together. */
static void all_rows(visit *v, class_targets_of targets_of, int64_t first, int64_t count,
                     void *scratch)
{
    const lk_job *job = v->job;
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const elem *logits = job->in[LOGITS].data, *targets = job->in[TARGETS].data;
    elem *grad = job->grad[LOGITS].data, *grad_targets = job->grad[TARGETS].data;
    if (grad || v->plan.width <= CHUNK)
        v->kept = scratch;
    v->plan.stream = grad && grad != logits && v->plan.inner == 1 &&
                     class_streams(grad, job->rows, v->plan.width);
    v->plan.plain = plain_plan(&v->plan, !soft);
    if (v->plan.inner > 1) {
        strided_rows(v, targets_of, first, count,
                     (elem *)((char *)scratch + class_kept_size(v->plan.width)));
        return;
    }
    const int64_t place = first * v->plan.width;
    some_rows(v, targets_of,
              (class_batch){.first = first,
                            .x = logits + place,
                            .t = soft ? targets + place : NULL,
                            .grad_x = grad ? grad + place : NULL,
                            .grad_t = grad_targets ? grad_targets + place : NULL},
              count);
}

void classwise_rows(const lk_job *job, class_targets_of targets_of, double *value, int64_t first,
                    int64_t count, lk_block *block, void *scratch)
{
    const classwise_options *o = job->options;
    visit v;
    v.job = job;
    v.block = block;
    v.block_end = first + job->block_rows;
    v.value = value;
    v.left = (plain_gradient){0};
    v.slot = 0;
    v.kept = NULL;
    v.plan = class_plan_make(job, &o->row, job->size['C' - 'A']);
    v.plan.weight = job->in[CLASS_WEIGHT].data;
    v.plan.inner = inner_size(job);
    v.plan.want_entropy = job->out[ENTROPY].data;
    v.plan.want_argmax = job->out[PREDICTED].data || job->out[ACCURACY].data;
    v.plan.want_rows = job->out_wanted || value || o->reduce.reduction == LK_NONE;
    classwise_factors(job, &v.plan);
    if (v.plan.width <= FEW)
        few_run(job, &v.plan, targets_of, value, first, count, block, scratch);
    else
        all_rows(&v, targets_of, first, count, scratch);
    for (int input = LOGITS; v.plan.power != 0 && input <= TARGETS; input++)
        if (job->grad[input].data)
            scale_rows(&v.plan, job->grad[input].data, first, count);
}

void classwise_finish(const lk_job *job, const double *sum)
{
    const classwise_options *o = job->options;
    const double n = (double)job->counted;
    const bool empty = job->counted == 0;
    const double nothing = o->reduce.empty_mean == LK_EMPTY_NAN ? (double)NAN : 0;
    put_row(job, ACCURACY, 0, empty ? nothing : sum[SUM_RIGHT] / n);
    put_row(job, COUNT, 0, n);
    put_row(job, PERPLEXITY, 0, lk_exp(empty ? nothing : sum[SUM_NLL] / n));
    put_row(job, DENOMINATOR, 0, job->denominator[MAIN]);
    if (o->reduce.reduction != LK_NONE && job->out[Z_LOSS].rank == 0)
        put_row(job, Z_LOSS, 0, job->scale[Z] != 0 ? sum[Z] * job->scale[Z] : nothing);
}

/* Which rows count, and their classes. */
LK_INLINE void weighted_classes(const lk_job *job, int64_t first, const int count,
                                class_targets *to)
{
    const classwise_options *o = job->options;
    const lk_tensor *targets = &job->in[TARGETS], *given = &job->in[MASK];
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const int64_t ignored = o->row.ignore_index;
    if (!soft && targets->dtype == LK_I64)
        v_copy(to->y, (const int64_t *)targets->data + first, (size_t)count * sizeof *to->y);
    else
        for (int k = 0; k < count; k++)
            to->y[k] = soft ? -1 : lk_int(targets, first + k);
    if (soft)
        memset(to->counts, -1, (size_t)count * sizeof *to->counts);
    else
        for (int k = 0; k < count; k++)
            to->counts[k] = to->y[k] != ignored ? -1 : 0;
    for (int k = 0; given->data && k < count; k++)
        to->counts[k] &= ((const unsigned char *)given->data)[first + k] != 0 ? -1 : 0;
}

LK_INLINE void weighted_some(const lk_job *job, int64_t first, const int count, class_targets *to)
{
    const classwise_options *o = job->options;
    const bool per_row = o->reduce.reduction == LK_NONE;
    weighted_classes(job, first, count, to);
    for (int k = 0; k < count; k++)
        to->main[k] = to->z[k] = to->counts[k] ? 1 : 0;
    for (int k = 0; job->in[GRAD_OUTPUT].data && k < count; k++)
        to->up[k] = per_row ? first + k : 0;
    for (int k = 0; job->in[SAMPLE_WEIGHT].data && k < count; k++)
        to->main[k] = to->z[k] = to->main[k] * real_or_one(job, SAMPLE_WEIGHT, first + k);
}

/* Loops of a constant length, where it is the usual one. */
static void weighted_targets(const lk_job *job, int64_t first, int count, class_targets *to)
{
    if (count == CLASS_GROUP)
        weighted_some(job, first, CLASS_GROUP, to);
    else
        weighted_some(job, first, count, to);
}

lk_status weighted_prepare(lk_job *job, lk_error *error)
{
    const bool soft = job->form[TARGETS] == PROBABILITY;
    const bool weighted = job->in[SAMPLE_WEIGHT].data || (!soft && job->in[CLASS_WEIGHT].data);
    const uint64_t classes = soft ? UINT64_MAX : (uint64_t)classwise_classes(job);
    double n = 0, d = 0;
    class_targets t = {0};
    for (int64_t i = 0; i < job->rows; i += CLASS_GROUP) {
        const int count = job->rows - i < CLASS_GROUP ? (int)(job->rows - i) : CLASS_GROUP;
        int64_t bad = 0;
        if (count < CLASS_GROUP)
            t = (class_targets){0};
        if (weighted)
            weighted_targets(job, i, count, &t);
        else if (count == CLASS_GROUP)
            weighted_classes(job, i, CLASS_GROUP, &t);
        else
            weighted_classes(job, i, count, &t);
        for (int k = 0; k < CLASS_GROUP; k++) {
            job->counted -= t.counts[k];
            bad |= t.counts[k] & ((uint64_t)t.y[k] < classes ? 0 : -1);
        }
        for (int k = 0; bad && !soft && k < count; k++)
            if (t.counts[k] && (uint64_t)t.y[k] >= classes)
                return classwise_no_class(job, TARGETS, i + k, error);
        for (int k = 0; weighted && k < count; k++) {
            n += t.main[k];
            d += t.main[k] * (soft || !t.counts[k] ? 1 : real_or_one(job, CLASS_WEIGHT, t.y[k]));
        }
    }
    job->denominator[MAIN] = weighted ? d : (double)job->counted;
    job->denominator[Z] = weighted ? n : (double)job->counted;
    classwise_total_weight(job);
    return LK_OK;
}

void weighted_rows(const lk_job *job, int64_t first, int64_t count, lk_block *block, void *scratch)
{
    classwise_rows(job, weighted_targets, NULL, first, count, block, scratch);
}
