/* SPDX-License-Identifier: MIT
 *
 * Losses of embeddings with the options `dims` and `dim_weights` (Matryoshka): a weighted sum of
 * the loss on the first d components of every embedding, for each d of the list. An embedding is a
 * tensor whose last axis is D.
 *
 * A call with `dims` makes a call of the same loss without them for each d, one after the other
 * (the entry), through the public functions alone. An entry reads copies of the prefixes, in f32 if
 * the elements have 16 bits, and its results are added to the sums of all, in f64, which are
 * rounded once, at the end. The longest prefix comes first: it finds the first value that is not
 * finite. A call without `dims` is an ordinary single evaluation.
 *
 * Gradients that are deferred are those of a second round of entries, which compute only them.
 */
#include "rows/prefixes.h"
#include "single.h"

#include <stdlib.h>

typedef struct prefixed {
    single all; /* checks everything; evaluates, too, if there are no dims */
    int at;     /* the entry that runs */
    lk_call *entry;
    void *memory; /* of the entries: their prefixes, results, and sums */
    size_t size;
    size_t scratch, needs; /* the most that an entry needs */
    int64_t cost;
    bool begun; /* the sums are cleared: not before, since others may use their memory till then */
    lk_error bad; /* of the first entry that failed */
} prefixed;

static prefixed *prefixed_of(const lk_call *call)
{
    return (prefixed *)(uintptr_t)call;
}

static const lk_prefixes *prefixes_of(const lk_call *call)
{
    const lk_field *dims = lk_field_find(call->loss->is->options, "dims");
    return (const void *)((const char *)call->options + dims->offset);
}

static double weight_of(const lk_call *call, int k)
{
    const lk_prefixes *p = prefixes_of(call);
    return p->dim_weights.count > 0 ? p->dim_weights.value[k] : 1;
}

static int entries_of(const lk_call *call)
{
    return (int)prefixes_of(call)->dims.count;
}

/* The last one is there whatever its weight: it checks the data and has the diagnostics. */
static bool has_entry(const lk_call *call, int k)
{
    return weight_of(call, k) != 0 || k == entries_of(call) - 1;
}

/* Places in the memory of the entries. */

static size_t aligned(size_t bytes)
{
    enum { LINE = 64 };
    return (bytes + LINE - 1) / LINE * LINE;
}

static char *take(const prefixed *p, size_t *used, size_t bytes)
{
    char *place = p->memory ? (char *)p->memory + *used : NULL;
    *used += aligned(bytes);
    return place;
}

static size_t bytes_of(const lk_tensor *t)
{
    return (size_t)lk_tensor_count(t) * lk_dtype_size(t->dtype);
}

/* Is the last axis of the input D? */
static bool is_embedding(const lk_input *input)
{
    const char *shape = input->forms[0].shape, *last = strrchr(shape, ' ');
    return strcmp(last ? last + 1 : shape, "D") == 0;
}

/* The input of an entry: its first d components, in the type that the entry computes in. */
static lk_tensor part_of(const single *s, int i, int64_t d)
{
    lk_tensor t = s->given[i];
    const lk_input *input = &s->call.loss->is->inputs[i];
    if (is_embedding(input))
        t.shape[t.rank - 1] = d;
    if ((input->flags & LK_DIFFERENTIABLE) && lk_is_float(t.dtype) && t.dtype != LK_F64)
        t.dtype = LK_F32;
    return t;
}

static bool is_same(const lk_tensor *a, const lk_tensor *b)
{
    return a->dtype == b->dtype && lk_tensor_count(a) == lk_tensor_count(b);
}

/* Rows of `from`, each `stride` long, cut to the last size of `to`. */
static void copy_prefix(const lk_tensor *from, const lk_tensor *to)
{
    const size_t each = lk_dtype_size(from->dtype), other = lk_dtype_size(to->dtype);
    const int64_t d = to->rank > 0 ? to->shape[to->rank - 1] : 1;
    const int64_t stride = from->rank > 0 ? from->shape[from->rank - 1] : 1;
    const int64_t rows = d > 0 ? lk_tensor_count(to) / d : 0;
    for (int64_t i = 0; i < rows; i++)
        lk_convert((const char *)from->data + (size_t)(i * stride) * each, from->dtype,
                   (char *)to->data + (size_t)(i * d) * other, to->dtype, d);
}

/* to += weight * from, on the first components of each row of `to`. */
static void add_prefix(const lk_tensor *from, double weight, const lk_tensor *to)
{
    const int64_t d = from->rank > 0 ? from->shape[from->rank - 1] : 1;
    const int64_t stride = to->rank > 0 ? to->shape[to->rank - 1] : 1;
    const int64_t rows = d > 0 && to->data ? lk_tensor_count(from) / d : 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < d; k++)
            lk_put(to, i * stride + k,
                   lk_real_at(to->data, to->dtype, i * stride + k) +
                       weight * lk_real_at(from->data, from->dtype, i * d + k));
}

/* The sum of an output over the entries: the output itself, if that is f64. */
static lk_tensor sum_of(const prefixed *p, const lk_wanted *w, size_t *used)
{
    lk_tensor t = w->tensor;
    if (t.dtype == LK_F64)
        return t;
    t.dtype = LK_F64;
    t.data = take(p, used, bytes_of(&t));
    return t;
}

/* Does this phase compute that output, as a sum over the entries? */
static bool is_summed(const lk_call *call, const lk_wanted *w)
{
    return w->role != DIAGNOSTIC && !(call->phase == GRADIENTS && w->role == VALUE) &&
           !(call->phase == VALUES && w->role == GRADIENT);
}

/* Entries. */

static lk_status give_inputs(prefixed *p, lk_call *entry, int64_t d, size_t *used, lk_error *error)
{
    const single *s = &p->all;
    const lk_input *inputs = s->call.loss->is->inputs;
    lk_status status = LK_OK;
    for (int i = 0; inputs[i].name && status == LK_OK; i++) {
        if (s->given[i].rank < 0)
            continue;
        lk_tensor t = part_of(s, i, d);
        if (!is_same(&t, &s->given[i])) {
            t.data = take(p, used, bytes_of(&t));
            if (p->memory)
                copy_prefix(&s->given[i], &t);
        }
        status = lk_call_input(entry, inputs[i].name, &t, error);
    }
    return status;
}

/* `loss` is always among them, and diagnostics are those of the last entry. */
static lk_status want_outputs(const prefixed *p, lk_call *entry, int k, lk_error *error)
{
    const lk_call *call = &p->all.call;
    lk_status status = lk_call_want(entry, "loss", error);
    for (int i = 0; i < call->wanted_count && status == LK_OK; i++) {
        const lk_wanted *w = &call->wanted[i];
        const bool last = k == entries_of(call) - 1 && call->phase != GRADIENTS;
        if (w->role == DIAGNOSTIC ? last : w->role == GRADIENT && is_summed(call, w))
            status = lk_call_want(entry, w->name, error);
    }
    return status;
}

/* The output of the call of that name, or NULL. */
static const lk_wanted *wanted_of(const lk_call *call, const char *name)
{
    for (int i = 0; i < call->wanted_count; i++)
        if (strcmp(call->wanted[i].name, name) == 0)
            return &call->wanted[i];
    return NULL;
}

static void bind_outputs(const prefixed *p, lk_call *entry, size_t *used)
{
    for (int i = 0; i < lk_call_outputs(entry); i++) {
        lk_tensor is;
        const lk_wanted *w = wanted_of(&p->all.call, lk_call_output(entry, i, &is));
        const bool own = w && w->role == DIAGNOSTIC;
        (void)lk_call_bind(entry, i, own ? w->tensor.data : take(p, used, bytes_of(&is)));
    }
}

/* Places of the sums, which come first: the same for each entry. */
static size_t sums_size(const prefixed *p)
{
    size_t used = 0;
    for (int i = 0; i < p->all.call.wanted_count; i++)
        if (p->all.call.wanted[i].role != DIAGNOSTIC)
            (void)sum_of(p, &p->all.call.wanted[i], &used);
    return used;
}

/* Make entry k, checked. Returns, without memory for the entries, how much it needs of it. */
static lk_status make_entry(prefixed *p, int k, size_t *used, lk_error *error)
{
    const lk_call *call = &p->all.call;
    const lk_field *dims = lk_field_find(call->loss->is->options, "dims");
    const int64_t d = prefixes_of(call)->dims.value[k];
    lk_call *entry = lk_call_new(call->loss);
    lk_status status;
    *used = sums_size(p);
    lk_call_free(p->entry);
    p->entry = entry;
    if (!entry)
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for a call");
    memcpy(entry->options, call->options, call->loss->options_size);
    memset((char *)entry->options + dims->offset, 0, sizeof(lk_prefixes));
    entry->options_given = call->options_given;
    if ((status = give_inputs(p, entry, d, used, error)) != LK_OK ||
        (status = want_outputs(p, entry, k, error)) != LK_OK ||
        (status = lk_call_check(entry, error)) != LK_OK)
        return status;
    bind_outputs(p, entry, used);
    return LK_OK;
}

static void drop_entry(prefixed *p)
{
    lk_call_free(p->entry);
    p->entry = NULL;
}

/* Entry k or the next below it, planned. False: there is none, or it failed. */
static bool start_entry(prefixed *p, int k)
{
    const lk_call *call = &p->all.call;
    size_t used;
    while (k >= 0 && !has_entry(call, k))
        k--;
    p->at = k;
    drop_entry(p);
    if (k < 0 || p->bad.status != LK_OK)
        return false;
    p->bad.status = make_entry(p, k, &used, &p->bad);
    if (p->bad.status == LK_OK)
        p->bad.status = lk_call_plan(p->entry, &p->bad);
    return p->bad.status == LK_OK;
}

/* Clear the sums of this round, unless that is done. */
static void begin_sums(prefixed *p)
{
    size_t used = 0;
    if (p->begun)
        return;
    p->begun = true;
    for (int i = 0; i < p->all.call.wanted_count; i++) {
        const lk_wanted *w = &p->all.call.wanted[i];
        const lk_tensor sum = w->role == DIAGNOSTIC ? w->tensor : sum_of(p, w, &used);
        if (is_summed(&p->all.call, w) && sum.data && bytes_of(&sum) > 0)
            memset(sum.data, 0, bytes_of(&sum));
    }
}

/* Add what the entry computed to the sums. */
static void finish_entry(prefixed *p)
{
    const lk_call *call = &p->all.call;
    const double weight = weight_of(call, p->at);
    size_t used = 0;
    p->bad.status = lk_call_finish(p->entry, &p->bad);
    begin_sums(p);
    for (int i = 0; i < call->wanted_count && p->bad.status == LK_OK; i++) {
        const lk_wanted *w = &call->wanted[i];
        if (w->role == DIAGNOSTIC)
            continue;
        const lk_tensor sum = sum_of(p, w, &used);
        for (int m = 0; m < lk_call_outputs(p->entry) && weight != 0 && is_summed(call, w); m++) {
            lk_tensor is;
            if (strcmp(lk_call_output(p->entry, m, &is), w->name) == 0)
                add_prefix(&is, weight, &sum);
        }
    }
}

/* The kind. */

static void clear(prefixed *p)
{
    drop_entry(p);
    free(p->memory);
    p->memory = NULL;
}

static void free_call(lk_call *call)
{
    clear(prefixed_of(call));
    lk_single.free(call);
}

/* What is wrong with `dims` and `dim_weights`. */
static lk_status check_prefixes(const lk_call *call, lk_error *error)
{
    const lk_prefixes *p = prefixes_of(call);
    const int64_t D = prefixed_of(call)->all.sizes.size['D' - 'A'], n = p->dims.count;
    for (int64_t k = 0, before = 0; k < n; before = p->dims.value[k++])
        if (p->dims.value[k] <= before || p->dims.value[k] > D)
            return lk_error_set(
                error, LK_OPTION_OUT_OF_RANGE, "",
                "dims[%lld] is %lld; the numbers must ascend and be in [1,%lld], as "
                "the embeddings have %lld components",
                (long long)k, (long long)p->dims.value[k], (long long)D, (long long)D);
    if (p->dim_weights.count > 0 && p->dim_weights.count != n)
        return lk_error_set(error, LK_OPTION_CONFLICT, "",
                            "dim_weights has %lld numbers and dims has %lld; there must be one "
                            "for each of dims",
                            (long long)p->dim_weights.count, (long long)n);
    return LK_OK;
}

/* Note what the entries of this phase need. */
static lk_status measure_phase(prefixed *p, lk_error *error)
{
    double cost = (double)p->cost;
    for (int k = 0; k < entries_of(&p->all.call); k++) {
        size_t used;
        if (!has_entry(&p->all.call, k))
            continue;
        const lk_status status = make_entry(p, k, &used, error);
        if (status != LK_OK)
            return status;
        const size_t scratch = lk_call_scratch(p->entry), needs = lk_call_memory(p->entry);
        p->scratch = scratch > p->scratch ? scratch : p->scratch;
        p->needs = needs > p->needs ? needs : p->needs;
        p->size = used > p->size ? used : p->size;
        cost += (double)lk_call_cost(p->entry) + (double)used / sizeof(float);
    }
    p->cost = lk_cost(cost);
    return LK_OK;
}

static lk_status measure(prefixed *p, lk_error *error)
{
    lk_call *call = &p->all.call;
    p->scratch = p->needs = p->size = 0;
    p->cost = 0;
    lk_status status = measure_phase(p, error);
    if (status == LK_OK && call->phase == VALUES) { /* and then those of its gradients */
        call->phase = GRADIENTS;
        status = measure_phase(p, error);
        call->phase = VALUES;
    }
    drop_entry(p);
    return status;
}

static lk_status check(lk_call *call, lk_error *error)
{
    lk_error first = {0}, own = {0};
    (void)lk_single.check(call, &first);
    if (first.status == LK_OK || lk_status_order(first.status) == LK_OF_OPTIONS) {
        (void)check_prefixes(call, &own);
        lk_error_keep(&first, &own);
    }
    if (error)
        *error = first;
    if (first.status != LK_OK || entries_of(call) == 0)
        return first.status;
    for (int i = 0; i < call->wanted_count; i++)
        call->wanted[i].over = NULL; /* the entries to come read the inputs */
    return measure(prefixed_of(call), error);
}

static lk_status start_round(prefixed *p, lk_error *error)
{
    p->bad = (lk_error){0};
    p->begun = false;
    if (!start_entry(p, entries_of(&p->all.call) - 1) && error)
        *error = p->bad;
    return p->bad.status;
}

static lk_status plan(lk_call *call, lk_error *error)
{
    prefixed *p = prefixed_of(call);
    if (entries_of(call) == 0)
        return lk_single.plan(call, error);
    clear(p);
    if (p->size > 0 && !(p->memory = aligned_alloc(64, p->size)))
        return lk_error_set(error, LK_NO_MEMORY, "", "no memory for prefixes (%zu bytes)", p->size);
    return start_round(p, error);
}

static size_t scratch(const lk_call *call)
{
    return entries_of(call) == 0 ? lk_single.scratch(call) : prefixed_of(call)->scratch;
}

static size_t memory(const lk_call *call)
{
    const prefixed *p = prefixed_of(call);
    return entries_of(call) == 0 ? lk_single.memory(call)
                                 : p->size + p->needs + sizeof *p + call->loss->options_size;
}

static int64_t cost(const lk_call *call)
{
    return entries_of(call) == 0 ? lk_single.cost(call) : prefixed_of(call)->cost;
}

static int64_t blocks(const lk_call *call)
{
    const lk_call *entry = prefixed_of(call)->entry;
    return entries_of(call) == 0 ? lk_single.blocks(call) : entry ? lk_call_blocks(entry) : 0;
}

static void run(lk_call *call, int64_t first, int64_t count, void *room)
{
    if (entries_of(call) == 0)
        lk_single.run(call, first, count, room);
    else
        lk_call_run(prefixed_of(call)->entry, first, count, room);
}

static bool next(lk_call *call)
{
    prefixed *p = prefixed_of(call);
    if (entries_of(call) == 0)
        return lk_single.next(call);
    if (!p->entry || p->bad.status != LK_OK)
        return false;
    if (lk_call_next(p->entry))
        return true;
    finish_entry(p);
    return start_entry(p, p->at - 1);
}

static lk_status finish(lk_call *call, lk_error *error)
{
    prefixed *p = prefixed_of(call);
    size_t used = 0;
    if (entries_of(call) == 0)
        return lk_single.finish(call, error);
    begin_sums(p); /* of no entry */
    if (p->bad.status != LK_OK && error)
        *error = p->bad;
    for (int i = 0; i < call->wanted_count && p->bad.status == LK_OK; i++) {
        const lk_wanted *w = &call->wanted[i];
        const lk_tensor sum = w->role == DIAGNOSTIC ? w->tensor : sum_of(p, w, &used);
        if (is_summed(call, w) && sum.dtype != w->tensor.dtype)
            lk_convert(sum.data, sum.dtype, w->tensor.data, w->tensor.dtype, lk_tensor_count(&sum));
    }
    return p->bad.status;
}

static void again(lk_call *call)
{
    clear(prefixed_of(call));
    lk_single.again(call);
}

static lk_status backward(lk_call *call, lk_error *error)
{
    return entries_of(call) == 0 ? lk_single.backward(call, error)
                                 : start_round(prefixed_of(call), error);
}

const lk_kind lk_prefixed = {
    .size = sizeof(prefixed),
    .outputs = SINGLE_OUTPUTS,
    .start = lk_single_start,
    .free = free_call,
    .input = lk_single_give,
    .want = lk_single_want,
    .dtypes = lk_single_dtypes,
    .tensor = lk_single_tensor,
    .check = check,
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
