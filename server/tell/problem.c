/* SPDX-License-Identifier: MIT */
#include "tell/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool set(problem *p, int status, const char *code, const char *input, const char *format,
                va_list args)
{
    *p = (problem){.status = status, .code = code};
    snprintf(p->input, sizeof p->input, "%s", input);
    vsnprintf(p->detail, sizeof p->detail, format, args);
    return false;
}

bool problem_set(problem *p, int status, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set(p, status, code, "", format, args);
    va_end(args);
    return false;
}

bool problem_input(problem *p, int status, const char *code, const char *input, const char *format,
                   ...)
{
    va_list args;
    va_start(args, format);
    set(p, status, code, input, format, args);
    va_end(args);
    return false;
}

static int http_status(lk_status status)
{
    switch (status) {
    case LK_UNKNOWN_LOSS:
        return 404;
    case LK_NO_MEMORY:
        return 503;
    case LK_MISUSE:
        return 500;
    default:
        return 422;
    }
}

bool problem_from(problem *p, const lk_error *error)
{
    problem_input(p, http_status(error->status), lk_status_name(error->status), error->input, "%s",
                  error->text);
    p->rank = error->rank;
    memcpy(p->index, error->index, sizeof p->index);
    return false;
}

const char *problem_title(int status)
{
    static const struct {
        int status;
        const char *title;
    } titles[] = {
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < sizeof titles / sizeof *titles; i++)
        if (titles[i].status == status)
            return titles[i].title;
    return "Error";
}

void problem_write(const problem *p, buffer *to)
{
    buffer_printf(to, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":",
                  problem_title(p->status), p->status);
    buffer_json_string(to, p->detail);
    buffer_printf(to, ",\"code\":\"%s\"", p->code);
    if (p->input[0] != '\0') {
        buffer_text(to, ",\"input\":");
        buffer_json_string(to, p->input);
    }
    for (int i = 0; i < p->rank; i++)
        buffer_printf(to, "%s%lld", i ? "," : ",\"index\":[", (long long)p->index[i]);
    buffer_text(to, p->rank > 0 ? "]}\n" : "}\n");
}

void problem_at_line(span text, int64_t line, buffer *to)
{
    buffer_text(to, "{\"line\":");
    buffer_integer(to, line);
    buffer_text(to, ",");
    buffer_append(to, text.data + 1, text.size - 1);
}

void problem_write_oip(const problem *p, buffer *to)
{
    buffer_text(to, "{\"error\":");
    buffer_json_string(to, p->detail);
    buffer_text(to, "}\n");
}
