/* SPDX-License-Identifier: MIT */
#include "request/life.h"

static uint64_t longest; /* --request-timeout in ns; set once */

void life_setup(const flags *f)
{
    longest = (uint64_t)f->request_timeout * 1000000;
}

void life_limit(request *r, uint64_t microseconds)
{
    const uint64_t most = longest / 1000;
    const uint64_t given = microseconds == 0 || microseconds > most ? most : microseconds;
    const uint64_t deadline = r->x->start + given * 1000;
    if (r->deadline == 0 || deadline < r->deadline)
        r->deadline = deadline;
}

bool life_over(request *r, uint64_t now)
{
    return atomic_load(&r->left) || now > r->deadline;
}

bool life_say_over(request *r)
{
    if (atomic_load(&r->left))
        return problem_set(&r->problem, 408, "client_left",
                           "the connection was closed before the evaluation was done");
    return problem_set(&r->problem, 504, "deadline_exceeded",
                       "the request was not done in the %.4g ms that it had",
                       (double)(r->deadline - r->x->start) * 1e-6);
}

bool life_wanted(request *r, uint64_t now)
{
    return !life_over(r, now) || life_say_over(r);
}
