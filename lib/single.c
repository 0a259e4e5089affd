/* SPDX-License-Identifier: MIT
 *
 * A single evaluation: one loss on the inputs of the call. This file plans it, runs the blocks and
 * reduces. It reads descriptions and knows no loss by name; losses know nothing of reductions.
 */
#include "single.h"

#include <stdlib.h>

void lk_single_start(lk_call *call)
{
    single *s = single_of(call);
    s->job.loss = call->loss;
    s->job.options = call->options;
    if (!lk_field_find(call->loss->is->options, "num_items"))
        ((lk_reduce *)call->options)->num_items = (double)NAN;
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        s->given[i].rank = -1;
}

/* Undo a plan, even a partial one: a caller whose data was refused may correct it and plan
 * again. */
static void clear_plan(single *s)
{
    for (int i = 0; i < LK_MAX_INPUTS; i++) {
        free(s->converted[i]);
        s->converted[i] = NULL;
    }
    free(s->state);
    free(s->block);
    free(s->job.kept);
    s->state = s->job.state = s->job.kept = NULL;
    s->block = NULL;
}

static void free_plan(lk_call *call)
{
    clear_plan(single_of(call));
}

lk_status lk_single_give(lk_call *call, const char *name, const lk_tensor *tensor, lk_error *error)
{
    const int i = lk_single_input(call->loss, name);
    char names[LK_NAMES_TEXT];
    if (i < 0)
        return lk_error_set(
            error, LK_UNKNOWN_INPUT, "", "there is no input \"%.40s\"; %s has %s", name,
            call->loss->is->name,
            lk_names_text(call->loss->is->inputs, sizeof *call->loss->is->inputs, names));
    lk_status status = lk_tensor_check(name, tensor, error);
    if (status == LK_OK)
        single_of(call)->given[i] = *tensor;
    return status;
}

const lk_tensor *lk_single_tensor(const lk_call *call, const char *name)
{
    const single *s = single_of(call);
    const int i = lk_single_input(call->loss, name);
    return i < 0 || s->given[i].rank < 0 ? NULL : &s->given[i];
}

/* Plan. */

/* Put the tensors' data into the job, of outputs those that the present passes compute. An empty
 * tensor gets an address that is never accessed, so that NULL always means "not given or not
 * requested". */
static lk_status take_data(single *s, lk_error *error)
{
    const lk_input *inputs = s->call.loss->is->inputs;
    void *nothing = s->call.options;
    for (int i = 0; inputs[i].name; i++) {
        lk_tensor *t = &s->job.in[i];
        if (s->given[i].rank < 0)
            continue;
        *t = lk_single_shown(s, i);
        if (lk_tensor_count(t) == 0)
            t->data = nothing;
        else if (!t->data)
            return lk_misuse(error, "an input has no data");
    }
    for (int k = 0; k < s->call.wanted_count; k++) {
        lk_wanted *w = &s->call.wanted[k];
        lk_tensor *t = w->role == VALUE      ? &s->job.value
                       : w->role == GRADIENT ? &s->job.grad[w->i]
                                             : &s->job.out[w->i];
        const lk_phase other = w->role == GRADIENT ? VALUES : GRADIENTS;
        *t = w->tensor;
        if (lk_tensor_count(t) == 0)
            t->data = nothing;
        else if (!t->data)
            return lk_misuse(error, "an output is not bound");
        if (s->call.phase == other)
            t->data = NULL;
    }
    return LK_OK;
}

/* An input with a type of its own is read as it is if its numbers are reals or can be widened to
 * them. */
static bool must_convert(const single *s, int i)
{
    if (s->given[i].rank < 0)
        return false; /* or i is beyond the inputs of this loss */
    const lk_input *input = &s->call.loss->is->inputs[i];
    const lk_dtype dtype = s->given[i].dtype, real = single_real(s);
    const bool numbers = s->call.loss->reals && (lk_input_dtypes(input) & LK_FLOATS);
    return (lk_is_float(dtype) || numbers) && !(input->flags & LK_DIFFERENTIABLE) &&
           dtype != real && !((input->flags & LK_OWN_TYPE) && dtype != LK_F64 && real != LK_F64);
}

enum { LINE = 64 }; /* bytes of a cache line, and of the longest vector */

/* Bytes of the loss's state, with room to begin at a multiple of LINE. */
static size_t state_room(const lk_job *job)
{
    const size_t state = job->loss->state ? job->loss->state(job) : 0;
    return state > 0 ? state + LINE : 0;
}

/* Bytes that the loss keeps from its values for deferred gradients. */
static size_t kept_room(const single *s)
{
    const lk_job *job = &s->job;
    return s->call.phase != TOGETHER && job->loss->kept ? job->loss->kept(job) : 0;
}

static size_t memory(const lk_call *call)
{
    const single *s = single_of(call);
    size_t bytes = (size_t)s->blocks * sizeof(lk_block) + state_room(&s->job) + kept_room(s);
    for (int i = 0; i < LK_MAX_INPUTS; i++)
        if (must_convert(s, i))
            bytes += (size_t)lk_tensor_count(&s->given[i]) * lk_dtype_size(single_real(s));
    return bytes;
}

static lk_status convert_inputs(single *s, lk_error *error)
{
    lk_dtype real = single_real(s);
    for (int i = 0; i < LK_MAX_INPUTS; i++) {
        lk_tensor *t = &s->job.in[i];
        int64_t count = must_convert(s, i) ? lk_tensor_count(t) : 0;
        if (count == 0)
            continue;
        if (!s->converted[i])
            s->converted[i] = malloc((size_t)count * lk_dtype_size(real));
        if (!s->converted[i])
            return lk_error_set(error, LK_NO_MEMORY, s->call.loss->is->inputs[i].name,
                                "no memory to convert %s", s->call.loss->is->inputs[i].name);
        lk_convert(t->data, t->dtype, s->converted[i], real, count);
        t->data = s->converted[i];
        t->dtype = real;
    }
    return LK_OK;
}

lk_status lk_refuse_weight(const lk_job *job, lk_error *error, int input, int64_t index, double w)
{
    char place[LK_PLACE_MAX];
    return lk_fail(job, error, LK_WEIGHT_INVALID, input, index, "%s is %g; a weight must be finite",
                   lk_place(job, input, index, place), w);
}

static lk_status check_weights(const single *s, lk_error *error)
{
    const lk_job *job = &s->job;
    for (int i = 0; !job->loss->checks_weights && job->loss->is->inputs[i].name; i++) {
        const lk_tensor *t = &job->in[i];
        if (!(job->loss->is->inputs[i].flags & LK_WEIGHTS) || !t->data)
            continue;
        const int64_t count = lk_tensor_count(t);
        for (int64_t k = 0; k < count; k++) {
            const double w = lk_real_at(t->data, t->dtype, k);
            if (!isfinite(w))
                return lk_refuse_weight(job, error, i, k, w);
        }
    }
    return LK_OK;
}

/* Do the offsets go from 0 to P without a step back? */
static lk_status check_offsets(const single *s, lk_error *error)
{
    const lk_job *job = &s->job;
    const int64_t last = job->size['B' - 'A'], positions = job->size['P' - 'A'];
    char place[LK_PLACE_MAX];
    for (int64_t b = 0, before = 0; job->offsets >= 0 && b <= last; b++) {
        const int64_t at = lk_sequence(job, b);
        const int64_t low = b == last ? positions : before, high = b == 0 ? 0 : positions;
        if (at < low || at > high)
            return lk_fail(job, error, LK_OFFSETS_INVALID, job->offsets, b,
                           "%s is %lld; offsets go from 0 to the number of positions, %lld, and "
                           "do not decrease",
                           lk_place(job, job->offsets, b, place), (long long)at,
                           (long long)positions);
        before = at;
    }
    return LK_OK;
}

static void *allocate(size_t bytes, const char *what, lk_error *error)
{
    void *memory = calloc(1, bytes);
    if (!memory)
        (void)lk_error_set(error, LK_NO_MEMORY, "", "no memory for %s (%zu bytes)", what, bytes);
    return memory;
}

static void set_scales(lk_job *job)
{
    const lk_reduce *reduce = job->options;
    bool chosen = job->loss->is->loss_shape != NULL;
    for (int part = 0; part < LK_MAX_PARTS; part++) {
        if (chosen && reduce->reduction == LK_MEAN && !isnan(reduce->num_items))
            job->denominator[part] = reduce->num_items;
        double d = job->denominator[part];
        bool divides = !chosen || reduce->reduction > LK_SUM;
        job->scale[part] = !divides ? 1 : d != 0 ? 1 / d : 0;
    }
}

static int64_t rows_of(const single *s, const lk_pass *pass)
{
    const lk_tensor *t = pass ? &s->job.in[pass->input] : NULL;
    return !t ? s->job.rows : t->rank > 0 ? t->shape[0] : 1;
}

/* The cost of one of the rows of a pass; there are some. */
static int64_t pass_cost(const single *s, const lk_pass *pass, int64_t rows)
{
    return s->job.loss->row_cost ? s->job.loss->row_cost(&s->job, pass)
                                 : lk_tensor_count(&s->job.in[pass->input]) / rows;
}

static double cost_of_pass(const single *s, const lk_pass *pass)
{
    const int64_t rows = rows_of(s, pass);
    return rows > 0 ? (double)rows * (double)pass_cost(s, pass, rows) : 0;
}

/* A pass ahead whose rows cost nothing is left out. */
static bool has_ahead(const single *s)
{
    const lk_pass *ahead = &s->job.loss->ahead;
    return ahead->rows && cost_of_pass(s, ahead) > 0;
}

/* Compute what all rows share, before the first pass. */
static lk_status prepare(single *s, lk_error *error)
{
    lk_job *job = &s->job;
    s->pass = has_ahead(s) ? AHEAD : 0;
    job->counted = 0;
    job->total_weight = 0;
    job->weightless = false;
    for (int part = 0; part < LK_MAX_PARTS; part++)
        job->denominator[part] = 1;
    lk_status status = job->loss->prepare(job, error);
    if (status == LK_OK)
        set_scales(job);
    return status;
}

static lk_status plan(lk_call *call, lk_error *error)
{
    single *s = single_of(call);
    lk_job *job = &s->job;
    lk_status status;
    clear_plan(s);
    if ((status = take_data(s, error)) != LK_OK || (status = convert_inputs(s, error)) != LK_OK ||
        (status = check_weights(s, error)) != LK_OK || (status = check_offsets(s, error)) != LK_OK)
        return status;

    const size_t state = state_room(job);
    if (state > 0 && !(s->state = allocate(state, "the plan", error)))
        return LK_NO_MEMORY;
    if (state > 0)
        job->state = (char *)s->state + (LINE - (uintptr_t)s->state % LINE);
    const size_t kept = kept_room(s);
    if (kept > 0 && !(job->kept = allocate(kept, "deferred gradients", error)))
        return LK_NO_MEMORY;
    const size_t blocks = (size_t)s->blocks * sizeof *s->block;
    if (blocks > 0 && !(s->block = allocate(blocks, "the blocks", error)))
        return LK_NO_MEMORY;
    return prepare(s, error);
}

/* The next plan frees what this one has. */
static void again(lk_call *call)
{
    single *s = single_of(call);
    atomic_store(&s->starved, false);
}

/* The gradients begin where the values did, with the upstream gradients as they are now. */
static lk_status backward(lk_call *call, lk_error *error)
{
    single *s = single_of(call);
    lk_status status;
    if ((status = take_data(s, error)) != LK_OK || (status = convert_inputs(s, error)) != LK_OK)
        return status;
    if (s->state)
        memset(s->state, 0, state_room(&s->job));
    if (s->block)
        memset(s->block, 0, (size_t)s->blocks * sizeof *s->block);
    return prepare(s, error);
}

/* Passes, blocks and finish. */

static const lk_pass *pass_of(const single *s)
{
    return s->pass == AHEAD ? &s->job.loss->ahead
           : s->pass > 0    ? &s->job.loss->passes[s->pass - 1]
                            : NULL;
}

static int64_t pass_rows(const single *s)
{
    return rows_of(s, pass_of(s));
}

static int64_t pass_block(const single *s)
{
    const lk_pass *pass = pass_of(s);
    int64_t rows = pass_rows(s);
    if (!pass || rows == 0)
        return s->job.block_rows;
    return lk_single_block_rows(&s->job, pass, pass_cost(s, pass, rows));
}

/* Each row has a cost besides that of its elements, except where rows are single elements that are
 * computed many at a time, as lk_loss.light says. */
static int64_t cost(const lk_call *call)
{
    enum { ROW = 32 };
    const single *s = single_of(call);
    const lk_loss *loss = s->job.loss;
    double sum = loss->light > 0 ? (double)s->job.rows * (double)s->each / loss->light
                                 : (double)s->job.rows * (double)(s->each + ROW);
    if (loss->ahead.rows)
        sum += cost_of_pass(s, &loss->ahead);
    for (const lk_pass *pass = loss->passes; pass->rows; pass++)
        if (s->job.grad_wanted >> pass->input & 1)
            sum += cost_of_pass(s, pass);
    return lk_cost(sum);
}

static int64_t blocks(const lk_call *call)
{
    const single *s = single_of(call);
    const int64_t block = pass_block(s);
    return (pass_rows(s) + block - 1) / block;
}

static size_t scratch(const lk_call *call)
{
    const single *s = single_of(call);
    return s->job.loss->scratch ? s->job.loss->scratch(&s->job) : 0;
}

static bool next(lk_call *call)
{
    single *s = single_of(call);
    if (s->pass == AHEAD) {
        s->pass = 0;
        return true;
    }
    do {
        if (s->pass == LK_MAX_PASSES || !s->job.loss->passes[s->pass].rows)
            return false;
        s->pass++;
    } while (!s->job.grad[pass_of(s)->input].data);
    return true;
}

static void run(lk_call *call, int64_t first, int64_t count, void *room)
{
    single *s = single_of(call);
    const lk_job *job = &s->job;
    const lk_pass *pass = pass_of(s);
    if (!job->loss->scratch)
        room = NULL; /* the buffer given may be too small: other parts of the call need it */
    const int64_t all = pass_rows(s), block = pass_block(s), most = blocks(call);
    const int64_t end = count < most - first ? first + count : most;
    const int64_t step = !pass && job->loss->whole_runs ? end - first : 1;
    if (!room && scratch(call) > 0) {
        atomic_store(&s->starved, true);
        return;
    }
    for (int64_t b = first; b < end; b += step) {
        const int64_t row = b * block, left = all - row;
        const int64_t rows = left < block * step ? left : block * step;
        if (pass)
            pass->rows(job, row, rows, room);
        else
            job->loss->rows(job, row, rows, &s->block[b], room);
    }
}

/* The lowest bad value by (input, index), whatever the blocks' order. */
static lk_status report_bad(const single *s, lk_error *error)
{
    const lk_block *worst = NULL;
    for (int64_t b = 0; b < s->blocks; b++) {
        const lk_block *block = &s->block[b];
        if (block->bad != LK_OK &&
            (!worst || block->bad_input < worst->bad_input ||
             (block->bad_input == worst->bad_input && block->bad_index < worst->bad_index)))
            worst = block;
    }
    if (!worst)
        return LK_OK;
    const lk_input *input = &s->call.loss->is->inputs[worst->bad_input];
    const char *range = input->range ? input->range : "a number";
    char place[LK_PLACE_MAX], value[LK_NUMBER_TEXT];
    lk_place(&s->job, worst->bad_input, worst->bad_index, place);
    if (worst->bad == LK_NONFINITE_INPUT)
        return lk_fail(&s->job, error, worst->bad, worst->bad_input, worst->bad_index,
                       "%s is NaN or +inf; with nonfinite=error it must be finite or -inf", place);
    return lk_fail(&s->job, error, worst->bad, worst->bad_input, worst->bad_index,
                   "%s is %s; it must be %s%s", place, lk_number_text(worst->bad_value, value),
                   range[0] == '[' || range[0] == '{' ? "in " : "", range);
}

static void write_value(const single *s, const double *sum)
{
    const lk_job *job = &s->job;
    const lk_reduce *reduce = job->options;
    double value = 0;
    if (!job->value.data || lk_single_loss_pattern(s)[0] != '\0' ||
        (job->loss->is->loss_shape && reduce->reduction == LK_NONE))
        return;
    for (int part = 0; part < job->loss->parts; part++) {
        if (job->scale[part] != 0)
            value += sum[part] * job->scale[part];
        else if (reduce->empty_mean == LK_EMPTY_NAN)
            value = (double)NAN;
    }
    /* The sign of a NaN is the compiler's choice, and not the same in place. */
    lk_put(&job->value, 0, isnan(value) ? (double)NAN : value);
}

static lk_status finish(lk_call *call, lk_error *error)
{
    single *s = single_of(call);
    double sum[LK_MAX_SUMS] = {0};
    if (atomic_load(&s->starved))
        return lk_misuse(error, "a run was given no scratch; see lk_call_scratch");
    lk_status status = report_bad(s, error);
    if (status != LK_OK)
        return status;
    for (int64_t b = 0; b < s->blocks; b++)
        for (int i = 0; i < LK_MAX_SUMS; i++)
            sum[i] += s->block[b].sum[i];
    write_value(s, sum);
    if (s->job.loss->finish)
        s->job.loss->finish(&s->job, sum);
    return LK_OK;
}

const lk_kind lk_single = {
    .size = sizeof(single),
    .outputs = SINGLE_OUTPUTS,
    .start = lk_single_start,
    .free = free_plan,
    .input = lk_single_give,
    .want = lk_single_want,
    .dtypes = lk_single_dtypes,
    .tensor = lk_single_tensor,
    .check = lk_single_check,
    .plan = plan,
    .scratch = scratch,
    .memory = memory,
    .cost = cost,
    .blocks = blocks,
    .run = run,
    .next = next,
    .finish = finish,
    .again = again,
    .backward = backward,
};
