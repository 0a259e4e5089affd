/* SPDX-License-Identifier: MIT */
#include "eval.h"

#include "evaluate.h"
#include "region.h"
#include "resident.h"
#include "wire/npz.h"
#include "wire/wires.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 64 * 1024, QUERY_MAX = 64 * 1024, TELL_MS = 200 };

static int print_problem(const problem *p)
{
    fprintf(stderr, "lossd: %s: %s\n", p->code, p->detail);
    return 1;
}

/* A file, or standard input. */
typedef struct input {
    int fd;
    const char *name; /* for people */
} input;

static bool open_input(const char *path, input *to)
{
    const bool standard = !path || strcmp(path, "-") == 0;
    to->name = standard ? "standard input" : path;
    to->fd = standard ? STDIN_FILENO : open(path, O_RDONLY);
    if (to->fd < 0)
        fprintf(stderr, "lossd: cannot open %s: %s\n", path, strerror(errno));
    return to->fd >= 0;
}

static void close_input(const input *from)
{
    if (from->fd != STDIN_FILENO)
        close(from->fd);
}

/* What comes next; 0 at the end, and -1 with a message. */
static ssize_t read_some(const input *from, char *to, size_t size)
{
    ssize_t n;
    do
        n = read(from->fd, to, size);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        fprintf(stderr, "lossd: cannot read %s: %s\n", from->name, strerror(errno));
    return n;
}

static bool read_file(const char *path, size_t max, buffer *to)
{
    char chunk[CHUNK];
    input from;
    ssize_t n;
    *to = buffer_new(max);
    if (!open_input(path, &from))
        return false;
    while ((n = read_some(&from, chunk, sizeof chunk)) > 0 && !to->failed)
        buffer_append(to, chunk, (size_t)n);
    close_input(&from);
    if (n >= 0 && to->failed)
        fprintf(stderr, "lossd: %s is larger than --max-body\n", from.name);
    return n >= 0 && !to->failed;
}

/* One request. The reply goes to standard output; that of JSON is a line. */
static bool evaluate(const lk_loss *loss, const wire *w, span body, const char *query, problem *p)
{
    evaluation *e = evaluation_new(loss, w, w, body);
    if (!e)
        return problem_set(p, 503, "no_memory", "no memory");
    bool ok = evaluation_open(e, query, 1, p) && evaluation_fill(e, p);
    if (ok) {
        do
            evaluation_run(e, 0);
        while (evaluation_next(e));
        ok = evaluation_close(e, p);
    }
    for (int i = 0; ok && i < e->pieces; i++)
        fwrite(e->piece[i].data, 1, e->piece[i].size, stdout);
    evaluation_free(e);
    return ok;
}

/* Requests by line. */

typedef struct progress {
    bool told; /* to a person, who sees standard error but not the replies */
    int64_t lines, errors, began_ms, last_ms;
} progress;

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void tell(progress *so_far, bool end)
{
    const int64_t now = now_ms(), ms = now - so_far->began_ms;
    if (!so_far->told || (!end && now - so_far->last_ms < TELL_MS))
        return;
    so_far->last_ms = now;
    fprintf(stderr, "\r%lld lines, %lld errors, %lld a second%s", (long long)so_far->lines,
            (long long)so_far->errors, (long long)(so_far->lines * 1000 / (ms > 0 ? ms : 1)),
            end ? "\n" : " ");
}

static bool is_blank(span line)
{
    cursor c = cursor_new(line);
    cursor_space(&c);
    return cursor_left(&c) == 0;
}

/* Answer a line by a line: a reply, or what is wrong with a member that says which line it is. An
 * empty line has no answer. */
static void answer_line(const lk_loss *loss, const char *query, const buffer *line,
                        progress *so_far)
{
    const span text = {line->data, line->size};
    problem p = {0};
    so_far->lines++;
    if (line->failed)
        problem_set(&p, 413, "too_large", "the line is longer than --max-body");
    else if (is_blank(text) || evaluate(loss, &wire_json, text, query, &p))
        p.status = 0;
    if (p.status != 0) {
        buffer said = buffer_new(CHUNK), answer = buffer_new(CHUNK);
        so_far->errors++;
        problem_write(&p, &said);
        problem_at_line((span){said.data, said.size}, so_far->lines, &answer);
        fwrite(answer.data, 1, answer.size, stdout);
        buffer_free(&said);
        buffer_free(&answer);
    }
    tell(so_far, false);
}

static int evaluate_lines(const flags *f, const lk_loss *loss, const char *path, const char *query)
{
    progress so_far = {.told = isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO),
                       .began_ms = now_ms()};
    const size_t max = (size_t)f->max_body;
    buffer line = buffer_new(max);
    char chunk[CHUNK];
    input from;
    ssize_t n;
    if (!open_input(path, &from))
        return 1;
    while ((n = read_some(&from, chunk, sizeof chunk)) > 0) {
        for (const char *at = chunk, *end = chunk + n; at < end;) {
            const char *stop = memchr(at, '\n', (size_t)(end - at));
            buffer_append(&line, at, (size_t)((stop ? stop : end) - at));
            at = stop ? stop + 1 : end;
            if (stop) {
                answer_line(loss, query, &line, &so_far);
                if (line.failed) {
                    buffer_free(&line);
                    line = buffer_new(max);
                }
                line.size = 0;
            }
        }
        fflush(stdout); /* whoever waits for these replies before it writes more */
    }
    if (n == 0 && (line.size > 0 || line.failed))
        answer_line(loss, query, &line, &so_far);
    buffer_free(&line);
    close_input(&from);
    tell(&so_far, true);
    return n == 0 && so_far.errors == 0 ? 0 : 1;
}

/* The command line: NAME=FILE.npy is an input, any other NAME=VALUE an option, or outputs. */

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* NAME= at the beginning; a path may have its = after a slash. */
static bool has_name(const char *word)
{
    const size_t n =
        strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    return n > 0 && word[n] == '=';
}

static void add_to_query(const char *word, buffer *query)
{
    bool is_name = true;
    buffer_text(query, query->size > 0 ? "&" : "");
    for (; *word != '\0'; word++) {
        const bool equals = is_name && *word == '=';
        is_name = is_name && !equals;
        buffer_printf(query, equals ? "=" : "%%%02x", (unsigned char)*word);
    }
}

/* Put a file NAME=FILE.npy into the archive. */
static bool add_array(const char *word, size_t max, npz_writer *archive)
{
    const char *equals = strchr(word, '=');
    char name[64];
    buffer file;
    if ((size_t)snprintf(name, sizeof name, "%.*s", (int)(equals - word), word) >= sizeof name) {
        fprintf(stderr, "lossd: \"%s\" begins with a name that no input has\n", word);
        return false;
    }
    bool ok = read_file(equals + 1, max, &file);
    if (ok) {
        const span bytes = {file.data, file.size};
        npz_member(archive, name, (span){"", 0}, bytes);
        buffer_append(archive->to, file.data, file.size);
        if (archive->to->failed)
            fprintf(stderr, "lossd: the arrays together are larger than --max-body\n");
        ok = !archive->to->failed;
    }
    buffer_free(&file);
    return ok;
}

typedef struct request {
    const lk_loss *loss;
    const char *path;
    buffer query, arrays; /* arrays: an archive of those on the command line */
    int members;
} request;

static bool read_words(const flags *f, char **words, int count, request *to)
{
    npz_writer archive = npz_begin(&to->arrays);
    bool ok = true;
    for (int i = 1; i < count && ok; i++) {
        const bool named = has_name(words[i]);
        if (named && ends_with(words[i], ".npy")) {
            ok = add_array(words[i], (size_t)f->max_body, &archive);
        } else if (named) {
            add_to_query(words[i], &to->query);
        } else if (to->path) {
            fprintf(stderr, "lossd: eval takes one file, not \"%s\" and \"%s\"\n", to->path,
                    words[i]);
            ok = false;
        } else {
            to->path = words[i];
        }
    }
    to->members = archive.members;
    npz_end(&archive);
    buffer_append(&to->query, "", 1);
    if (ok && to->query.failed)
        fprintf(stderr, "lossd: the options are too long for the command line; "
                        "a JSON request may have them\n");
    return ok && !to->query.failed && !to->arrays.failed;
}

static int evaluate_file(const flags *f, const lk_loss *loss, request *r)
{
    problem p = {0};
    buffer file = buffer_new(0);
    bool ok = r->members > 0 || read_file(r->path, (size_t)f->max_body, &file);
    const buffer *from = r->members > 0 ? &r->arrays : &file;
    const span body = {from->data, from->size};
    if (ok && npz_is_tensor(body))
        problem_set(&p, 400, "malformed_body",
                    "a .npy file is one tensor: say which input by NAME=%s", r->path);
    else if (ok)
        (void)evaluate(loss, npz_is_archive(body) ? &wire_npz : wire_of_bytes(body), body,
                       r->query.data, &p);
    buffer_free(&file);
    if (p.status != 0)
        return print_problem(&p);
    return ok ? 0 : 1;
}

int eval(const flags *f, char **words, int count, bool lines)
{
    request r = {.query = buffer_new(QUERY_MAX), .arrays = buffer_new((size_t)f->max_body)};
    problem p = {0};
    int status = EVAL_BAD_USAGE;
    region_setup((size_t)f->region_budget);
    if (count < 1)
        fprintf(stderr, "lossd: eval takes the name of a loss, and a file or standard input\n");
    else if (!resident_start(f))
        status = 1;
    else if (!read_words(f, words, count, &r))
        status = 1;
    else if (r.members > 0 && (r.path || lines))
        fprintf(stderr, "lossd: eval takes NAME=FILE.npy or a file, not both\n");
    else if (!(r.loss = evaluation_loss(words[0], &p)))
        status = print_problem(&p);
    else
        status =
            lines ? evaluate_lines(f, r.loss, r.path, r.query.data) : evaluate_file(f, r.loss, &r);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "lossd: cannot write the reply: %s\n", strerror(errno));
        status = 1;
    }
    buffer_free(&r.query);
    buffer_free(&r.arrays);
    return status;
}
