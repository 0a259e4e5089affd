/* SPDX-License-Identifier: MIT
 *
 * Error bounds for values and gradients, and the comparison of two answers.
 */
#include "tests/check/check.h"

static double greatest(const double *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]))
            most = fmax(most, fabs(x[i]));
    return most;
}

static void scale_by(sizes *s, double option)
{
    s->z *= fmax(1, option);
    s->divisor *= option > 0 ? fmin(1, option) : 1;
}

/* What scores that are products of vectors with those of this input have beyond the vectors: twice
 * the square root of their length, times its largest number. */
static double head_factor(const trial_input *in, double most)
{
    const int axis = in->at.rank - 1;
    return (in->is->flags & LK_OWN_TYPE) && axis > 0 ? 2 * sqrt((double)in->at.shape[axis]) * most
                                                     : 0;
}

/* Weights that are an option, and a loss that is a sum of several: the sum of the numbers' sizes,
 * and how many there are. */
static double list_factor(const setting *set)
{
    double sum = 0;
    for (const char *c = set->text; *c && strcmp(set->text, "off") != 0; c += strcspn(c, ",")) {
        c += *c == ',';
        sum += set->field->type == LK_REALS ? fabs(atof(c)) : 1;
    }
    return set->field->type == LK_REALS || set->field->type == LK_LIST ? sum : 1;
}

/* How much larger scores are than what is divided by an input that must be above 0. */
static double divided_by(const trial *t)
{
    double most = 1;
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *in = &t->in[i];
        const bool divides = in->given && in->is->range && strcmp(in->is->range, ">0") == 0;
        for (int64_t k = 0; divides && k < in->at.count; k++)
            most = in->x[k] > 0 ? fmax(most, 1 / in->x[k]) : most;
    }
    return most;
}

sizes sizes_of(const trial *t, const answer *a)
{
    bool wide = t->element == LK_F64;
    double head = 1;
    sizes s = {.w = 1, .rho = 1, .terms = (double)trial_rows(t), .divisor = 1};
    s.rows = fmax(1, s.terms);
    s.relative = wide ? 1e-12 : 2e-6;
    s.step = wide ? 0x1p-51 : 0x1p-23;
    for (int i = 0; i < t->inputs; i++) {
        const trial_input *in = &t->in[i];
        if (!in->given || !is_float(in->type))
            continue;
        double most = greatest(in->x, in->at.count);
        head = fmax(head, head_factor(in, most));
        if (strcmp(in->pattern, "loss") == 0)
            s.rho = most;
        else if (in->is->flags & LK_DIFFERENTIABLE)
            s.z = fmax(s.z, most);
        else
            s.w *= fmax(1, most);
    }
    s.z *= head * divided_by(t);
    for (int i = 0; i < t->settings; i++)
        s.w *= fmax(1, list_factor(&t->set[i]));
    for (int i = 0; i < t->settings; i++)
        if (t->set[i].field->type == LK_REAL && strcmp(t->set[i].text, "off") != 0 &&
            strcmp(t->set[i].field->name, "num_items") != 0)
            scale_by(&s, fabs(atof(t->set[i].text)));
    /* What similarities are multiplied with, where it is the default. */
    const char *scale = trial_option(t, "scale");
    for (int i = 0; i < t->settings && scale; i++)
        if (strcmp(t->set[i].field->name, "scale") == 0)
            scale = NULL;
    if (scale)
        scale_by(&s, fabs(atof(scale)));
    const char *items = trial_option(t, "num_items");
    if (option_is(t, "reduction", "mean")) {
        double divisor = fmax(1, s.terms);
        if (items && strcmp(items, "off") != 0)
            divisor = atof(items);
        else if (answer_find(a, "denominator"))
            divisor = answer_value(a, "denominator", 0);
        s.rho = divisor > 0 ? s.rho / divisor : 0;
        s.terms = divisor > 0 ? fmax(1, s.terms / divisor) : 1;
    } else if (option_is(t, "reduction", "none")) {
        s.terms = 1;
    }
    return s;
}

/* The error bound of a value. */
double value_bound(const sizes *s, double x)
{
    return s->relative * (s->terms + fabs(x)) * s->w + s->step * s->z * s->w * s->terms;
}

/* A diagnostic of one number may be a sum over the rows, divided by an option, and the exponential
 * of that: exp(x) has the bound of x times its slope. */
double diagnostic_bound(const sizes *s, double x, bool scalar)
{
    sizes d = *s;
    d.terms = scalar ? s->rows / s->divisor : 1;
    return value_bound(&d, x) * fmax(1, fabs(x));
}

double gradient_bound(const sizes *s, lk_dtype type, double peak, double x)
{
    double bound = (s->relative / 2 + 2 * s->step * s->z) * peak;
    bound += 2 * s->step * s->z * s->w * s->rho;
    bound += 2 * ulp(type == LK_F64 ? LK_F64 : LK_F32, x);
    return type == LK_F16 || type == LK_BF16 ? bound + ulp(type, x) / 2 : bound;
}

/* ---------------------------------------------------------------------------------- comparing  */

/* The largest finite |x| of the row that each element is in. */
static double *row_peaks(const trial *t, const lk_tensor *tensor, const layout *at)
{
    int64_t rows = trial_rows(t);
    double *peak = new_doubles(rows), *peaks = new_doubles(at->count), all = 0;
    int64_t *row = rows_of(t, at);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < at->count; i++) {
            double x = fabs(load(tensor->data, tensor->dtype, i));
            double *top = row ? &peak[row[i]] : &all;
            if (pass == 0 && isfinite(x))
                *top = fmax(*top, x);
            peaks[i] = *top;
        }
    }
    free(row);
    free(peak);
    return peaks;
}

bool close_to(double x, double y, double bound)
{
    if (isnan(x) || isnan(y))
        return isnan(x) && isnan(y);
    if (isinf(x) || isinf(y))
        return x == y;
    return fabs(x - y) <= bound;
}

/* The shape of an output that is no gradient, as a pattern. */
const char *output_pattern(const trial *t, const char *name)
{
    for (const lk_output *o = t->is->outputs; o->name; o++)
        if (strcmp(o->name, name) == 0)
            return o->shape;
    return "loss";
}

/* Whether a real option of the trial can make different scores equal, or nearly equal: options that
 * are off by default clip or truncate something. */
static bool may_tie(const trial *t)
{
    for (int i = 0; i < t->settings; i++)
        if (t->set[i].field->type == LK_REAL && (t->set[i].field->flags & LK_OFF) &&
            strcmp(t->set[i].text, "off") != 0 && strcmp(t->set[i].field->name, "num_items") != 0)
            return true;
    return false;
}

static void compare_gradient(const trial *t, const sizes *s, const lk_tensor *x, const lk_tensor *y,
                             const char *name, double times, const char *who)
{
    const trial_input *in = trial_find((trial *)(uintptr_t)t, name + 5);
    double *peak = row_peaks(t, x, &in->at);
    int digits, lowest, highest;
    float_format(x->dtype, &digits, &lowest, &highest);
    double limit = ldexp(2 - ldexp(1, -digits), highest);
    for (int64_t i = 0; i < in->at.count; i++) {
        double a = load(x->data, x->dtype, i), b = load(y->data, y->dtype, i);
        double bound = times * gradient_bound(s, x->dtype, peak[i], isfinite(a) ? a : limit);
        /* At the end of the type's range, infinity is as near as the last number. */
        double c = isinf(a) ? copysign(limit, a) : a, d = isinf(b) ? copysign(limit, b) : b;
        bool at_end = isinf(a) != isinf(b) && fabs(c - d) <= bound;
        if (!close_to(a, b, bound) && !at_end) {
            complain(t, "%s[%" PRId64 "] is %.17g, and %.17g by %s; bound %g", name, i, a, b, who,
                     bound);
            break;
        }
    }
    free(peak);
}

/* Compare an answer with the reference; the difference may be `times` the bound. */
void compare(const trial *t, const answer *reference, const answer *other, double times,
             const char *who)
{
    sizes s = sizes_of(t, reference);
    bool ties = false;
    if (!both_given(t, reference, other, who))
        return;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 0; k < reference->count; k++) {
            const lk_tensor *x = &reference->out[k].tensor, *y;
            const char *name = reference->out[k].name;
            bool whole = !is_float(x->dtype);
            if (whole != (pass == 0) || (y = answer_find(other, name)) == NULL)
                continue;
            if (strncmp(name, "grad.", 5) == 0) {
                compare_gradient(t, &s, x, y, name, times, who);
                continue;
            }
            for (int64_t i = 0; i < lk_tensor_count(x); i++) {
                double a = load(x->data, x->dtype, i), b = load(y->data, y->dtype, i);
                bool loss = strcmp(name, "loss") == 0;
                bool scalar = output_pattern(t, name)[0] == '\0';
                double bound = loss ? value_bound(&s, a) : diagnostic_bound(&s, a, scalar);
                if (whole && a != b && !scalar && may_tie(t)) {
                    ties = true;
                    continue;
                }
                if (!loss && scalar && ties)
                    continue; /* a statistic of tied values */
                if (!close_to(a, b, whole ? 0 : times * bound)) {
                    complain(t, "%s[%" PRId64 "] is %.17g, and %.17g by %s; bound %g", name, i, a,
                             b, who, times * bound);
                    break;
                }
            }
        }
    }
}

/* Has element i the same bits? With any_nan, any NaN is the same. */
static bool same_bits(const lk_tensor *x, const lk_tensor *y, int64_t i, bool any_nan)
{
    const size_t size = lk_dtype_size(x->dtype), at = (size_t)i * size;
    return memcmp((char *)x->data + at, (char *)y->data + at, size) == 0 ||
           (any_nan && is_float(x->dtype) && isnan(load(x->data, x->dtype, i)) &&
            isnan(load(y->data, y->dtype, i)));
}

static void compare_outputs(const trial *t, const answer *a, const answer *b, bool any_nan,
                            const char *what)
{
    if (!both_given(t, a, b, what))
        return;
    for (int i = 0; i < a->count; i++) {
        const lk_tensor *x = &a->out[i].tensor, *y = answer_find(b, a->out[i].name);
        for (int64_t k = 0; y && k < lk_tensor_count(x); k++) {
            if (same_bits(x, y, k, any_nan))
                continue;
            complain(t, "%s[%" PRId64 "] is %.17g, and %.17g %s", a->out[i].name, k,
                     load(x->data, x->dtype, k), load(y->data, x->dtype, k), what);
            break;
        }
    }
}

void compare_bits(const trial *t, const answer *a, const answer *b, const char *what)
{
    compare_outputs(t, a, b, false, what);
}

void compare_isas(const trial *t, const answer *a, const answer *b, const char *what)
{
    compare_outputs(t, a, b, true, what);
}
