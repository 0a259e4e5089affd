/* SPDX-License-Identifier: MIT
 *
 * Rows of class scores of which a part of the classes is here and others are elsewhere. Of a part's
 * scores first its logsumexp is told; where that of all parts, L, is known, the part's share of the
 * row's value and derivatives is computed: sums over its classes k, with l_k = z_k - L.
 */
#ifndef LK_SHARD_H
#define LK_SHARD_H

#include "rows/elements.h"
#include "rows/sequence.h"

typedef struct shard {
    int64_t total;          /* classes of all parts; 0: all are here */
    int64_t start, classes; /* the part's */
    bool combined;          /* is L known? */
} shard;

/* Is the part asked for its logsumexp? */
LK_STATIC bool shard_asks(const shard *s)
{
    return s->total > 0 && !s->combined;
}

LK_STATIC lk_status shard_check_outputs(const lk_job *job, const shard *s, lk_error *error)
{
    const uint32_t whole = 1u << PREDICTED | 1u << ACCURACY | 1u << PERPLEXITY |
                           1u << BYTE_PERPLEXITY | 1u << WORD_PERPLEXITY;
    const uint32_t told = 1u << LSE | 1u << (WORD_PERPLEXITY + 1);
    if (shard_asks(s) && (job->grad_wanted || (job->out_wanted & ~told)))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "vocab_total without the input lse gives lse and target_logit alone; "
                       "combine lse of all parts by logsumexp, and send it for the rest");
    if (s->total > 0 && (job->out_wanted & whole))
        return lk_fail(job, error, LK_UNKNOWN_OUTPUT, -1, -1,
                       "predicted, accuracy and perplexities need all classes: they do not go "
                       "with vocab_total");
    return LK_OK;
}

/* Is there a class weight for each class? */
LK_STATIC lk_status shard_check_weights(const lk_job *job, const shard *s, int class_weight,
                                        lk_error *error)
{
    const int64_t classes = s->total > 0 ? s->total : s->classes;
    if (lk_has(job, class_weight) && job->in[class_weight].shape[0] != classes)
        return lk_fail(job, error, LK_SHAPE_MISMATCH, class_weight, -1,
                       "class_weight has %lld elements; it must have one for each of the %lld "
                       "classes",
                       (long long)job->in[class_weight].shape[0], (long long)classes);
    return LK_OK;
}

/* What shards exclude. */
LK_STATIC lk_status shard_check_options(const lk_job *job, const shard *s, int lse, lk_error *error)
{
    const sequence_options *o = job->options;
    const class_options *row = &o->common.row;
    const bool cut = row->vocab_size > 0 && row->vocab_size < s->total;
    if (s->total <= 0 && (lk_has(job, lse) || lk_given(job, "vocab_start")))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1, "%s needs vocab_total",
                       lk_has(job, lse) ? "the input lse" : "vocab_start");
    if (s->total > 0 && (row->focal_gamma > 0 || row->poly1 != 0 || row->target_scaling > 0 ||
                         row->subtract_entropy || cut))
        return lk_fail(job, error, LK_OPTION_CONFLICT, -1, -1,
                       "vocab_total excludes vocab_size below it, focal_gamma, poly1, "
                       "target_scaling and subtract_entropy");
    if (s->total > 0 && s->start > s->total - s->classes)
        return lk_fail(job, error, LK_OPTION_OUT_OF_RANGE, -1, -1,
                       "weight has %lld classes from vocab_start=%lld on; with vocab_total=%lld "
                       "there can be %lld",
                       (long long)s->classes, (long long)s->start, (long long)s->total,
                       (long long)(s->total > s->start ? s->total - s->start : 0));
    return LK_OK;
}

/* The plan of the part's own classes, and the row's target among them, of a plan and a target of
 * all. Where the target is elsewhere, the first class takes its place, with what others have. */
LK_STATIC class_plan shard_plan(const shard *s, const class_plan *all, class_row *row, bool *here)
{
    class_plan p = *all;
    *here = row->y >= s->start && row->y < s->start + s->classes;
    row->y = *here ? row->y - s->start : 0;
    p.classes = p.width = s->classes;
    p.weight = all->weight ? all->weight + s->start : NULL;
    p.total_weight = p.weight ? elements_sum(p.weight, s->classes) : (double)s->classes;
    p.on = *here ? all->on : all->off;
    return p;
}

typedef struct shard_logits {
    double lse, target;
} shard_logits;

LK_STATIC shard_logits shard_ask(const shard *s, const class_plan *all, class_row *row)
{
    bool here;
    const class_plan p = shard_plan(s, all, row, &here);
    const class_norm norm = class_normalise(&p, row);
    const bool none = isinf(norm.top) && norm.top < 0;
    return (shard_logits){none ? (double)norm.top : (double)norm.top + norm.log_sum,
                          here ? (double)norm.at : 0};
}

/* As class_conclude and class_entropy: the shares of a row, and the coefficients of the derivatives
 * of its scores. row->y becomes -1 where the target is elsewhere. */
LK_STATIC class_slope shard_conclude(const shard *s, const class_plan *all, class_row *row,
                                     double lse, class_norm *norm)
{
    bool here;
    const int64_t y = row->y;
    const class_plan p = shard_plan(s, all, row, &here);
    const double weight = all->weight ? (double)all->weight[y] : 1;
    const double placed = p.weight ? (double)p.weight[row->y] : 1; /* of the class at row->y */
    const double mass = placed * p.on + p.off * (p.total_weight - placed);
    const double others = all->off * (all->total_weight - weight);
    const double pull = row->zeta * 2 * all->z_loss * lse;
    double gap;
    *norm = class_normalise(&p, row);
    (void)class_conclude(&p, row, norm);
    const bool none = isinf(norm->top) && norm->top < 0;
    const double above = none ? 0 : lse - ((double)norm->top + norm->log_sum);
    const double l = (double)norm->at - lse, hit = lk_exp(l), miss = -lk_expm1(l);
    if (none)
        row->main = mass > 0 ? (double)INFINITY : 0;
    else if (mass != 0)
        row->main += above * mass;
    if (p.want_entropy && !none)
        row->entropy = (real)(lk_exp(-above) * (class_entropy(&p, row, norm, &gap) + above));
    row->z_part = here && all->z_loss != 0 ? all->z_loss * lse * lse : 0;
    row->nll = (real)(here ? -l : 0);
    row->lse = (real)lse;
    row->y = here ? row->y : -1;
    if (none)
        norm->top = 0; /* for e^(z - top) */
    const double own = row->rho * (others * hit - weight * all->on * miss) + pull * hit;
    return (class_slope){.a = (row->rho * (weight * all->on + others) + pull) *
                              lk_exp((double)norm->top - lse),
                         .b = all->off > 0 ? row->rho : 0,
                         .y = row->y,
                         .at = here ? own : 0};
}

#endif
