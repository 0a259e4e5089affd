/* SPDX-License-Identifier: MIT
 *
 * Draws a trial from a loss's description: options, then sizes, then the forms and values of the
 * inputs. A trial that the library refuses, because its options, sizes or values exclude each
 * other, is drawn again.
 */
#include "tests/trial/trial.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void draw_real(const lk_field *f, char to[40])
{
    static const double at_will[] = {0.01, 0.25, 0.5, 1, 1.5, 2, 4};
    double lo = f->flags & LK_RANGED ? f->min : -4, hi = f->flags & LK_RANGED ? f->max : 4;
    double x;
    if (isfinite(lo) && isfinite(hi)) {
        x = chance(0.2) && !(f->flags & LK_OPEN)       ? lo
            : chance(0.1) && !(f->flags & LK_OPEN_END) ? hi
                                                       : lo + (hi - lo) * random_unit();
    } else {
        const double far = chance(0.5) ? at_will[random_int(0, 6)] : 4 * random_unit();
        x = isfinite(lo) ? lo + far : hi - far;
    }
    if (!(f->flags & (LK_OPEN | LK_RANGED)) && chance(0.1))
        x = 0;
    snprintf(to, 40, "%.17g", x);
}

/* Whether this option sets the position of an axis in a pattern of the loss. */
static bool places_axis(const trial *t, const lk_field *f)
{
    char word[64];
    snprintf(word, sizeof word, "@%s", f->name);
    for (const lk_input *in = t->is->inputs; in->name; in++)
        for (int i = 0; i < 3 && in->forms[i].shape; i++)
            if (strstr(in->forms[i].shape, word))
                return true;
    return false;
}

static void draw_option(trial *t, const lk_field *f)
{
    setting *s = &t->set[t->settings++];
    s->field = f;
    char *to = s->text;
    if ((f->flags & LK_OFF) && chance(0.3)) {
        snprintf(to, sizeof s->text, "off");
        return;
    }
    switch (f->type) {
    case LK_REAL:
        draw_real(f, to);
        return;
    case LK_INTEGER: {
        double lo = f->flags & LK_RANGED ? f->min : -3, hi = f->flags & LK_RANGED ? f->max : 5;
        hi = hi > lo + 20 ? lo + (chance(0.5) ? 2 : 20) : hi;
        lo += f->flags & LK_OPEN ? 1 : 0;
        int64_t x = random_int((int64_t)lo, (int64_t)hi);
        /* Another value far from all others, where every integer is legal. */
        snprintf(to, sizeof s->text, "%" PRId64, f->flags & LK_RANGED || chance(0.7) ? x : -77);
        return;
    }
    case LK_UNSIGNED: {
        double lo = f->flags & LK_RANGED ? f->min : 0, hi = f->flags & LK_RANGED ? f->max : 1e6;
        snprintf(to, sizeof s->text, "%" PRId64,
                 random_int((int64_t)lo, (int64_t)(hi > lo + 20 ? lo + 20 : hi)));
        return;
    }
    case LK_LIST:
        to[0] = '\0';
        for (int64_t i = random_int(0, 3), used = 0, x = 0, ascends = chance(0.5); i >= 0; i--) {
            x = ascends ? x + random_int(1, 3) : random_int(0, 5);
            used += snprintf(to + used, sizeof s->text - (size_t)used, "%s%" PRId64,
                             used ? "," : "", x);
        }
        return;
    case LK_REALS:
        to[0] = '\0';
        for (int64_t i = random_int(0, 2), used = 0; i >= 0; i--)
            used += snprintf(to + used, sizeof s->text - (size_t)used, "%s%.3g", used ? "," : "",
                             4 * random_normal());
        return;
    case LK_FLAG:
        snprintf(to, sizeof s->text, "%s", chance(0.5) ? "true" : "false");
        return;
    default: {
        int words = 1;
        for (const char *c = f->choices; *c; c++)
            words += *c == '|';
        const char *c = f->choices;
        for (int64_t i = random_int(0, words - 1); i > 0; i--)
            c += strcspn(c, "|") + 1;
        snprintf(to, sizeof s->text, "%.*s", (int)strcspn(c, "|"), c);
        return;
    }
    }
}

/* Is it one of the words of "none|sum|mean"? */
static bool has_word(const char *words, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = words; (at = strstr(at, word)); at += n)
        if ((at == words || at[-1] == '|') && (at[n] == '|' || at[n] == '\0'))
            return true;
    return false;
}

static void draw_options(trial *t, const wish *w)
{
    bool any = !w->plain && chance(0.75);
    t->settings = 0;
    for (const lk_field *f = t->is->options; f->name; f++) {
        bool reduction = strcmp(f->name, "reduction") == 0;
        if (w->aligned && f->fallback && f->type == LK_INTEGER && (f->flags & LK_RANGED) &&
            !(f->flags & LK_OFF) && !places_axis(t, f))
            continue;
        if ((w->sloped && (f->flags & LK_HOLDS)) || (w->single && (f->flags & LK_COUPLES)))
            continue;
        if (reduction && w->reduction && has_word(f->choices, w->reduction))
            trial_set(t, f->name, w->reduction);
        else if (!f->fallback || (any && chance(0.25)) || (reduction && chance(0.6)) ||
                 (w->needy && f->type == LK_INTEGER && (f->flags & LK_OFF) && chance(0.7)))
            draw_option(t, f);
    }
}

/* Sizes: the last letter of the loss, or the last leading size if there is no letter, is drawn from
 * sizes around multiples of the vector length; the others are small. */
static void draw_sizes(trial *t, const wish *w)
{
    static const int64_t sweep[] = {1,  2,  3,  7,  8,  9,   15,  16,  17,
                                    31, 32, 33, 63, 65, 127, 200, 513, 1031};
    const char *pattern = t->is->inputs[0].forms[0].shape, *last = NULL, *other = NULL;
    int letters = 0;
    bool star = false;
    for (const char *p = pattern; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        star = star || *p == '*';
        last = *p == '*' ? last : p;
        if (*p != '*' && random_int(0, letters++) == 0)
            other = p;
    }
    if (!star && letters > 1 && !w->huge && chance(0.3))
        last = other; /* many rows, or long ones, of few */
    int64_t swept = w->small ? random_int(1, 9)
                             : sweep[random_int(0, (int64_t)(sizeof sweep / sizeof *sweep) - 1)];
    int64_t few = swept > 100 ? 3 : 6;
    t->lead_rank = w->one_lead || w->huge ? 1 : (int)random_int(0, 3);
    for (int k = 0; k < t->lead_rank; k++)
        t->lead[k] = chance(0.03) && !w->smooth ? 0 : random_int(1, t->lead_rank == 3 ? 3 : few);
    for (int i = 0; i < 26; i++)
        t->size[i] = random_int(1, 4);
    t->size['P' - 'A'] = random_int(chance(0.1) ? 0 : 1, 4 * few);
    if (w->huge) {
        int64_t classes = chance(0.4) ? random_int(2, 40) : random_int(1, 3) * 3001;
        t->lead[0] = last ? 140000 / classes : 140001;
        if (last)
            t->size[*last - 'A'] = classes;
    } else if (last && t->lead_rank > 0 && chance(0.15)) {
        t->lead[0] = swept; /* many rows of few */
    } else if (last) {
        t->size[*last - 'A'] = swept;
    } else if (t->lead_rank > 0) {
        t->lead[t->lead_rank - 1] = swept;
    }
}

/* Constraints among the values of a last axis: distinct, or logarithms of probabilities. */
static void relate_values(const trial *t, trial_input *in)
{
    const char *range = in->is->range ? in->is->range : "", *letter = strchr(range, ',');
    const int64_t K = in->at.rank > 0 ? in->at.shape[in->at.rank - 1] : 0;
    const bool distinct = strstr(range, ", distinct"), shares = strstr(range, ", exp sums");
    for (int64_t i = 0; i < in->at.count && (distinct || shares); i++) {
        if (shares) {
            in->x[i] = round_to(in->type, in->x[i] - at_least_log(K) - 0.01);
            continue;
        }
        const int64_t all = t->size[letter[1] - 'A'], most = option_limit(t);
        const int64_t C = all < most ? all : most, row = i / K * K;
        for (int64_t tries = 0, k = row; k < i; k++) {
            if (in->x[k] != in->x[i] || in->x[i] < 0)
                continue;
            in->x[i] = ++tries > 3 * C ? -1 : (double)random_int(0, C - 1);
            k = row - 1;
        }
    }
}

/* The value that the range of an input excludes: "[0,C) except option". */
static bool range_exception(const trial *t, const char *range, double *x)
{
    const char *name = range ? strstr(range, " except ") : NULL;
    const char *text = name ? trial_option(t, name + strlen(" except ")) : NULL;
    *x = text ? atof(text) : 0;
    return text;
}

/* What an option adds to the upper end of a range, "[0,V+option)". If the option is off, the values
 * of the first input with that range define the end, and those of later inputs must be below it. */
static int64_t range_spare(const trial *t, const char *top)
{
    const char *text = *top && top[1] == '+' ? trial_option(t, top + 2) : NULL;
    return !text ? 0 : strcmp(text, "off") == 0 ? random_int(0, 3) : atoll(text);
}

/* The earlier input that has the same range of that kind. */
static const trial_input *range_twin(const trial *t, const trial_input *in)
{
    const char *range = in->is->range;
    if (!range || !strchr(range, '+'))
        return NULL;
    for (const trial_input *k = t->in; k < in; k++)
        if (k->given && k->is->range && strcmp(k->is->range, range) == 0)
            return k;
    return NULL;
}

/* A value of the twin from the slice of the batch that element i of an input is in, or -1. */
static double twin_value(const trial_input *twin, const trial_input *in, int64_t i)
{
    const int64_t batch = in->at.shape[0], width = twin->at.count / batch;
    return width > 0 ? twin->x[i / (in->at.count / batch) * width + random_int(0, width - 1)] : -1;
}

/* Numbers from 0 to the number of positions that do not decrease. */
static void draw_offsets(const trial *t, trial_input *in)
{
    const int64_t last = in->at.count - 1, positions = t->size['P' - 'A'];
    in->x = new_doubles(in->at.count);
    in->x[last] = (double)positions;
    for (int64_t b = 1; b < last; b++) {
        const double x = (double)random_int(0, positions);
        int64_t k = b;
        for (; k > 1 && in->x[k - 1] > x; k--)
            in->x[k] = in->x[k - 1];
        in->x[k] = x;
    }
}

/* The range that the values of an input have in this trial; NULL: any that is finite. */
static const char *range_here(const trial *t, const trial_input *in)
{
    const char *range = in->is->range, *name = range ? strstr(range, " unless ") : NULL;
    if (!range || strcmp(range, "finite") == 0)
        return NULL;
    return name && option_is(t, name + strlen(" unless "), "true") ? NULL : range;
}

/* The values of an input, by its range. False if they cannot be drawn. */
static bool draw_values(trial *t, trial_input *in, double scale, const wish *w)
{
    const char *range = range_here(t, in);
    bool real = is_float(in->type);
    double marks[TRIAL_OPTIONS];
    const trial_input *twin = range_twin(t, in);
    /* An input that targets are compared with, or a list of classes, has no sentinels. */
    const bool unmarked = range && ((strchr(range, '+') && !twin) || strstr(range, ", distinct"));
    int n_marks = unmarked ? 0 : sentinels(t, marks);
    int64_t n = in->at.count;
    double lo = 0, hi = 1;
    char opening = 0, closing = 0, top[32] = "";
    in->x = new_doubles(n);
    if (range && sscanf(range, "%c%lf,%31[^])}]%c", &opening, &lo, top, &closing) == 4 &&
        opening != '{') {
        char *end;
        bool letter = top[0] >= 'A' && top[0] <= 'Z' && (!top[1] || top[1] == '+');
        hi = letter             ? (double)t->size[top[0] - 'A']
             : strcmp(top, "*") ? strtod(top, &end)
             : t->lead_rank > 0 ? (double)t->lead[t->lead_rank - 1]
                                : 0;
        if (!twin)
            hi += (double)range_spare(t, top);
        if (letter && real)
            hi = 1, lo = 0; /* the float form of an index: a share of each class */
        if (letter && !real && hi > (double)option_limit(t))
            hi = (double)option_limit(t);
        if (!real)
            hi -= closing == ')';
        if (!real && (lo > hi && n > 0))
            return false;
    } else if (range && opening != '{' && opening != '<' && opening != '>') {
        return false;
    }
    double exception;
    bool excepts = range_exception(t, range, &exception);
    if (excepts && lo == hi && lo == exception && n > 0)
        return false;
    double inside = w->smooth || opening == '(' || closing == ')' ? 0.02 : 0;
    for (int64_t i = 0; i < n; i++) {
        double x = scale * random_normal();
        if (trial_masks(in))
            x = chance(0.75) ? (double)(1 + i % 3 * 127) : 0; /* any byte but 0 is true */
        else if (!range && !real)
            x = (double)random_int(-3, 3);
        else if (range && opening == '{')
            x = chance(0.5) ? lo : strtod(top, NULL);
        else if (range && opening && !strchr("<>", opening))
            x = real ? lo + (hi - lo) * (inside + (1 - 2 * inside) * random_unit())
                     : (double)random_int((int64_t)lo, (int64_t)hi);
        else if (range && !real)
            x = atof(range + 2) + (double)(chance(0.1) ? random_int(0, 3000) : random_int(0, 6));
        else if (range)
            x = (*range == '<' ? -1 : 1) * (inside + fabs(random_normal()));
        if (range && real && range[1] == '=' && !w->smooth && chance(0.1))
            x = 0;
        if (range && opening == '[' && real && !w->smooth && chance(0.05))
            x = lo;
        if (range && !real && closing == ')' && n_marks > 0 && chance(0.15))
            x = marks[random_int(0, n_marks - 1)];
        if (twin && x >= 0 && chance(0.5))
            x = fmax(x, twin_value(twin, in, i));
        while (excepts && x == exception)
            x = (double)random_int((int64_t)lo, (int64_t)hi);
        in->x[i] = real ? round_to(in->type, x) : x;
    }
    relate_values(t, in);
    for (int64_t i = 0; i < n; i++)
        if (in->type == LK_U8 && (in->x[i] < 0 || in->x[i] > 255))
            in->type = LK_I64;
    return true;
}

/* The types that an input with a type of its own may have beside the primary input. */
static unsigned own_dtypes(const trial *t)
{
    return t->element == LK_F64 ? 1u << LK_F64 : LK_FLOATS & ~(1u << LK_F64);
}

static lk_dtype draw_dtype(unsigned dtypes)
{
    lk_dtype type = (lk_dtype)random_int(0, LK_DTYPE_COUNT - 1);
    while (!((dtypes >> type) & 1u))
        type = (lk_dtype)random_int(0, LK_DTYPE_COUNT - 1);
    return type;
}

/* Check a call with these inputs, options and outputs. Stores what it costs, unless that is NULL.
 */
static lk_status try_check(const trial *t, lk_error *error, int64_t *cost)
{
    lk_call *call = must(lk_call_new(t->loss));
    lk_status status = LK_OK;
    for (int i = 0; i < t->inputs && status == LK_OK; i++) {
        lk_tensor tensor = {NULL, t->in[i].type, t->in[i].at.rank, {0}};
        memcpy(tensor.shape, t->in[i].at.shape, sizeof tensor.shape);
        if (t->in[i].given)
            status = lk_call_input(call, t->in[i].is->name, &tensor, error);
    }
    for (int i = 0; i < t->settings && status == LK_OK; i++)
        status = lk_call_option(call, t->set[i].field->name, t->set[i].text, error);
    for (int i = 0; i < t->wants && status == LK_OK; i++)
        status = lk_call_want(call, t->want[i], error);
    if (status == LK_OK)
        status = lk_call_check(call, error);
    if (status == LK_OK && cost)
        *cost = lk_call_cost(call);
    lk_call_free(call);
    return status;
}

/* Make the pattern of an input that broadcasts that of one shape which does: some of the leading
 * sizes, by their labels, and of the letters after the star, or 1 in their place. */
static void draw_spread(const trial *t, trial_input *in)
{
    char axes[LK_MAX_RANK + 1];
    int rank = 0;
    for (; rank < t->lead_rank; rank++)
        axes[rank] = (char)('a' + rank);
    for (const char *c = in->pattern; *c && rank < LK_MAX_RANK; c++)
        if (*c >= 'A' && *c <= 'Z')
            axes[rank++] = *c;
    const int missing = (int)random_int(0, chance(0.5) ? 0 : rank);
    char *to = in->pattern;
    for (int k = missing; k < rank; k++) {
        *to++ = chance(0.3) ? '1' : axes[k];
        *to++ = ' ';
    }
    *(to > in->pattern ? to - 1 : to) = '\0';
}

/* Choose whether input i is given, and its form. */
static bool draw_form(trial *t, int i)
{
    trial_input *in = &t->in[i];
    int forms = 1;
    if ((in->is->flags & LK_OPTIONAL) && chance(0.6))
        return true;
    in->given = true;
    while (forms < 3 && in->is->forms[forms].shape)
        forms++;
    int64_t form = random_int(0, forms - 1);
    snprintf(in->pattern, sizeof in->pattern, "%s", in->is->forms[form].shape);
    if (*in->pattern == '~')
        draw_spread(t, in);
    unsigned dtypes = in->is->forms[form].dtypes;
    bool follows = (in->is->flags & LK_DIFFERENTIABLE) && ((dtypes >> t->element) & 1u);
    bool own = follows && (in->is->flags & LK_OWN_TYPE);
    in->type = own ? draw_dtype(dtypes & own_dtypes(t)) : follows ? t->element : draw_dtype(dtypes);
    if (lay_out(t, in->pattern, &in->at))
        return true;
    in->given = false;
    return in->is->flags & LK_OPTIONAL;
}

/* The values of an input that is given. */
static bool draw_input(trial *t, trial_input *in, double scale, const wish *w)
{
    bool follows = (in->is->flags & LK_DIFFERENTIABLE) && is_float(in->type);
    bool own_scale = (!follows || (in->is->flags & LK_OWN_TYPE)) && is_float(in->type);
    /* Vectors that others are multiplied with. */
    bool factor = (in->is->flags & LK_OWN_TYPE) && in->at.rank > 1;
    double spread = factor ? 1 / sqrt((double)in->at.shape[in->at.rank - 1] + 1) : 1;
    if (in->is->flags & LK_OFFSETS) {
        draw_offsets(t, in);
        return true;
    }
    if (!draw_values(t, in, own_scale ? spread : scale, w))
        return false;
    for (int64_t j = 0; w->nonfinite && follows && j < in->at.count; j++)
        if (chance(fmin(0.1, 3.0 / (double)in->at.count)))
            /* Inputs with a range, such as probabilities, must not be infinite. */
            in->x[j] = in->is->range || chance(0.3) ? (double)NAN
                       : chance(0.3)                ? (double)INFINITY
                                                    : -(double)INFINITY;
    return true;
}

/* Draw all inputs. Returns the result of checking them with the options. */
static lk_status draw_inputs(trial *t, const wish *w, lk_error *error)
{
    enum { MOST = 1 << 28 }; /* a quarter of a second */
    double scale = chance(0.5) ? 1 : 1 + 9 * random_unit();
    for (int i = 0; t->is->inputs[i].name; i++, t->inputs++)
        t->in[i] = (trial_input){.is = &t->is->inputs[i]};
    for (int pass = 0; pass < 2; pass++) /* the offsets first: they change the other shapes */
        for (int i = 0; i < t->inputs; i++)
            if (((t->in[i].is->flags & LK_OFFSETS) != 0) == (pass == 0) && !draw_form(t, i))
                return LK_OPTION_CONFLICT;
    int64_t cost = 0;
    lk_status status = try_check(t, error, &cost);
    if (w->huge && cost > MOST)
        return LK_OPTION_CONFLICT; /* pairs of many */
    for (int i = 0; i < t->inputs && status == LK_OK; i++)
        if (t->in[i].given && !draw_input(t, &t->in[i], scale, w))
            status = LK_OPTION_CONFLICT;
    return status;
}

/* Request an output if it exists, and tell. */
static bool want_known(trial *t, const char *prefix, const char *name)
{
    trial_want(t, prefix, name);
    const bool known = try_check(t, NULL, NULL) != LK_UNKNOWN_OUTPUT;
    t->wants -= !known;
    return known;
}

/* Request every output that exists: some need a certain form of an input, or an option. There is
 * the loss, but for transforms and calls that give diagnostics alone, and with it each gradient. */
static lk_status want_all(trial *t, lk_error *error)
{
    t->wants = 0;
    const bool loss = want_known(t, "", "loss");
    for (int i = 0; i < t->inputs; i++)
        if (t->in[i].given && (t->in[i].is->flags & LK_DIFFERENTIABLE) && is_float(t->in[i].type) &&
            want_known(t, "grad.", t->in[i].is->name) != loss) {
            *error = (lk_error){.status = LK_UNKNOWN_OUTPUT};
            snprintf(error->text, sizeof error->text, "%s grad.%s", loss ? "there is no" : "only",
                     t->in[i].is->name);
            return error->status;
        }
    for (const lk_output *o = t->is->outputs; o->name; o++)
        want_known(t, "", o->name);
    return LK_OK;
}

static bool wants_loss(const trial *t)
{
    return t->wants > 0 && strcmp(t->want[0], "loss") == 0;
}

static bool may_conflict(const trial_input *in)
{
    const unsigned flags = in->is->flags;
    if (trial_masks(in))
        return !(flags & LK_IGNORES);
    return (flags & LK_WEIGHTS) || ((flags & LK_OPTIONAL) && !is_float(in->type));
}

/* Whether the trial is refused because its values exclude each other. Only masks that select
 * something other than rows can cause that, weights of which an option takes the logarithm, and
 * optional integers, which may contradict others. */
static bool numbers_conflict(const trial *t)
{
    bool chooses = false;
    for (int i = 0; i < t->inputs; i++)
        chooses = chooses || (t->in[i].given && may_conflict(&t->in[i]));
    if (!chooses)
        return false;
    answer a = evaluate(t, &(how){.isa = "scalar"});
    lk_status status = a.status;
    answer_free(&a);
    return status == LK_OPTION_CONFLICT || status == LK_WEIGHT_INVALID;
}

/* Replace unreachable targets by reachable ones. */
static void mend_targets(trial *t)
{
    bool may = false;
    for (int i = 0; i < t->inputs; i++)
        may = may || range_twin(t, &t->in[i]);
    for (int tries = 0; may; tries++) {
        answer a = evaluate(t, &(how){.isa = "scalar"});
        trial_input *in = a.status == LK_TARGET_UNREACHABLE ? trial_find(t, a.error.input) : NULL;
        for (int64_t i = 0; in && i < in->at.count; i++)
            if (tries == 8 || i == ravel(&in->at, a.error.index))
                in->x[i] = 0;
        may = in;
        answer_free(&a);
    }
}

/* A trial as wanted, with all outputs. Draws that the loss refuses because options exclude each
 * other or do not fit the sizes are repeated; any other refusal is an error, and *error reports it.
 */
trial trial_draw(const lk_loss *loss, const wish *wanted, lk_error *error)
{
    trial t;
    wish w = *wanted;
    int tries = 0;
    for (; tries < 400000; tries++) { /* of some losses one in thousands is valid */
        t = (trial){.loss = loss, .is = lk_loss_describe(loss), .element = w.element};
        *error = (lk_error){0};
        draw_options(&t, &w);
        draw_sizes(&t, &w);
        lk_status status = draw_inputs(&t, &w, error);
        if (status == LK_OK)
            mend_targets(&t);
        if (status == LK_OK)
            status = want_all(&t, error);
        if (status == LK_OK && w.valued && !wants_loss(&t))
            status = LK_OPTION_CONFLICT;
        if (status != LK_OPTION_CONFLICT && status != LK_OPTION_OUT_OF_RANGE &&
            status != LK_MISSING_INPUT && status != LK_MISSING_OPTION &&
            status != LK_SHAPE_MISMATCH && status != LK_RANK_MISMATCH &&
            !(status == LK_OK && numbers_conflict(&t)))
            return t;
        w.needy = w.needy || status == LK_MISSING_OPTION;
        w.huge = w.huge && tries < 1000; /* sizes that hang together may not allow it */
        trial_free(&t);
    }
    *error = (lk_error){.status = LK_MISUSE};
    snprintf(error->text, sizeof error->text, "none of %d draws is valid", tries);
    return t;
}
