/* SPDX-License-Identifier: MIT
 *
 * The bytes of replies do not depend on the instruction set: the example of every loss, and drawn
 * requests of every loss and element type, in JSON, by the server's steps.
 *
 * usage: replies [N]    N drawn requests in all, 2000 without
 */
#include "tests/request/request.h"

#include <inttypes.h>

static int64_t asked, refused;
static int differing;

/* The reply to a body, or the problem. */
static bytes reply_of(const lk_loss *loss, const char *isa, const bytes *body)
{
    outcome o;
    bytes reply = {0};
    lk_isa_use(isa);
    if (serve_body(loss, &wire_json, &wire_json, body->data, body->size, "", 1, &o))
        put(&reply, o.reply.data, o.reply.size);
    else
        say(&reply, "%d %.40s: %.200s", o.problem.status, o.problem.code, o.problem.detail);
    outcome_free(&o);
    lk_isa_use("auto");
    return reply;
}

static void complain(const lk_loss *loss, const char *isa, const bytes *body, const bytes *a,
                     const bytes *b)
{
    size_t at = 0;
    while (at < a->size && at < b->size && a->data[at] == b->data[at])
        at++;
    at -= at < 40 ? at : 40;
    if (differing++ < 20)
        print_error("%s: %s replies ...%.80s, and %s ...%.80s to %.600s\n",
                    lk_loss_describe(loss)->name, isa, b->data + at, lk_isa_name(0), a->data + at,
                    body->data);
}

static void check(const lk_loss *loss, const bytes *body)
{
    bytes first = {0};
    asked++;
    for (int isa = 0; isa < lk_isa_count(); isa++) {
        if (!lk_isa_runs(isa))
            continue;
        bytes reply = reply_of(loss, lk_isa_name(isa), body);
        if (!first.data) {
            first = reply;
            refused += reply.data[0] != '{';
            continue;
        }
        if (reply.size != first.size || memcmp(reply.data, first.data, first.size) != 0)
            complain(loss, lk_isa_name(isa), body, &first, &reply);
        free(reply.data);
    }
    free(first.data);
}

static void examples(void **state)
{
    (void)state;
    differing = 0;
    for (int l = 0; l < lk_loss_count(); l++) {
        bytes body = {0};
        put(&body, lk_loss_describe(lk_loss_at(l))->example,
            strlen(lk_loss_describe(lk_loss_at(l))->example));
        check(lk_loss_at(l), &body);
        free(body.data);
    }
    assert_int_equal(differing, 0);
}

static int64_t requests = 2000;

static void drawn(void **state)
{
    static const lk_dtype elements[] = {LK_F32, LK_F64, LK_F16, LK_BF16};
    static const int sizes[] = {4, 12, 40};
    (void)state;
    differing = 0;
    refused = asked = 0;
    for (int64_t round = 0; asked < requests; round++)
        FOR_EACH_DRAWN (l)
            for (int e = 0; e < 4 && asked < requests; e++) {
                bytes body = {0};
                sample s = sample_new(lk_loss_at(l), elements[e], sizes[round % 3],
                                      SAMPLE_OPTIONS | (round % 2 ? SAMPLE_OUTPUTS : 0));
                say_body(&body, &s, &wire_json, IN_BODY);
                check(s.loss, &body);
                free(body.data);
                sample_free(&s);
            }
    print_message("%" PRId64 " requests, of which %" PRId64 " are refused; %d replies differ\n",
                  asked, refused, differing);
    assert_int_equal(differing, 0);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        requests = strtoll(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {cmocka_unit_test(examples), cmocka_unit_test(drawn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
