/* SPDX-License-Identifier: MIT */
#include "http/access.h"

#include "tell/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FILE_MAX = 1024 * 1024, KEY_MIN = 16 };

typedef struct key {
    const char *name; /* NULL if the file has none */
    const char *text;
    size_t size;
} key;

/* The keys of one version of the file; names and texts point into it. */
typedef struct keys {
    char *file;
    key *each;
    size_t count;
} keys;

static const flags *flag;
static _Thread_local keys known; /* each thread that runs a loop has its own copy */

static void free_keys(keys *k)
{
    free(k->file);
    free(k->each);
    *k = (keys){0};
}

/* Keys. */

static bool has_keys(void)
{
    return flag && flag->api_key_file[0] != '\0';
}

/* NULL with a reason. */
static char *read_file(const char *path, const char **why)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        *why = strerror(errno);
        return NULL;
    }
    char *text = malloc(FILE_MAX + 1);
    const size_t size = text ? fread(text, 1, FILE_MAX + 1, file) : 0;
    *why = !text             ? "no memory"
           : ferror(file)    ? "it cannot be read"
           : size > FILE_MAX ? "it is larger than 1 MiB"
                             : NULL;
    fclose(file);
    if (*why) {
        free(text);
        return NULL;
    }
    text[size] = '\0';
    return text;
}

/* Is it a valid token after "Bearer", by RFC 6750? */
static bool is_bearer(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/");
    n += strspn(text + n, "=");
    return n > 0 && text[n] == '\0';
}

/* "key" or "name key" on a line; empty lines and lines that begin with # are ignored. */
static bool read_line(keys *k, char *line, const char **why)
{
    char *rest = NULL, *first = strtok_r(line, " \t\r", &rest);
    char *second = first ? strtok_r(NULL, " \t\r", &rest) : NULL;
    if (!first || first[0] == '#')
        return true;
    const char *text = second ? second : first;
    if (strtok_r(NULL, " \t\r", &rest))
        *why = "more than a name and a key";
    else if (!is_bearer(text))
        *why = "a key is made of letters, digits and -._~+/, and = at its end";
    else if (strlen(text) < KEY_MIN)
        *why = "a key has at least 16 characters";
    if (*why)
        return false;
    k->each[k->count++] = (key){second ? first : NULL, text, strlen(text)};
    return true;
}

/* False with a message in `said`. */
static bool read_keys(const char *path, keys *k, char *said, size_t size)
{
    const char *why;
    size_t lines = 1, number = 0;
    *k = (keys){.file = read_file(path, &why)};
    if (!k->file) {
        snprintf(said, size, "cannot read --api-key-file %s: %s", path, why);
        return false;
    }
    for (const char *c = k->file; *c != '\0'; c++)
        lines += *c == '\n';
    k->each = calloc(lines, sizeof *k->each);
    bool ok = k->each != NULL;
    why = "no memory";
    char *line = k->file;
    while (ok && line) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        number++;
        why = NULL;
        ok = read_line(k, line, &why);
        line = end ? end + 1 : NULL;
    }
    if (ok && k->count == 0) {
        ok = false;
        why = "it holds no key";
    }
    if (!ok) {
        snprintf(said, size, "--api-key-file %s, line %zu: %s", path, number, why);
        free_keys(k);
    }
    return ok;
}

/* Compare in constant time: it depends on the length of what was given, not on the contents. */
static bool same(const key *k, const char *given, size_t size)
{
    volatile unsigned char different = k->size != size;
    for (size_t i = 0; i < size; i++)
        different = (unsigned char)(different | (given[i] ^ k->text[i % k->size]));
    return different == 0;
}

static bool is_exempt(access_class what)
{
    const char *exempt = flag->api_key_exempt;
    return what == ACCESS_OPEN || (what == ACCESS_HEALTH && strcmp(exempt, "none") != 0) ||
           (what == ACCESS_METRICS && strcmp(exempt, "health,metrics") == 0);
}

/* A number that stands for a key, and stays when the file is read again. */
static uint64_t identity(const key *k)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < k->size; i++)
        hash = (hash ^ (unsigned char)k->text[i]) * 1099511628211u;
    return hash | 1;
}

bool access_by_key(access_class what, const char *authorization, char name[ACCESS_NAME],
                   uint64_t *id, problem *p)
{
    name[0] = '\0';
    *id = 0;
    if (!has_keys() || is_exempt(what))
        return true;
    const size_t word = authorization ? strcspn(authorization, " ") : 0;
    if (word != strlen("Bearer") || strncasecmp(authorization, "Bearer", word) != 0)
        return problem_set(p, 401, "unauthorized",
                           "this service needs a key: send Authorization: Bearer KEY");
    const char *given = authorization + word + strspn(authorization + word, " ");
    const size_t size = strlen(given);
    const key *found = NULL;
    for (size_t i = 0; i < known.count; i++)
        if (same(&known.each[i], given, size)) /* and compare with the other keys all the same */
            found = &known.each[i];
    if (!found)
        return problem_set(p, 403, "forbidden", "the key is not one of this service's");
    snprintf(name, ACCESS_NAME, "%s", found->name ? found->name : "");
    *id = identity(found);
    return true;
}

/* Origins. */

/* Is it "scheme://host" or "scheme://host:port", as browsers send it? */
static bool is_origin(const char *text, size_t size)
{
    size_t i = 0;
    while (i < size && islower((unsigned char)text[i]))
        i++;
    if (i == 0 || size - i <= 3 || strncmp(text + i, "://", 3) != 0)
        return false;
    for (i += 3; i < size; i++)
        if (!islower((unsigned char)text[i]) && !isdigit((unsigned char)text[i]) &&
            !strchr("-._:[]", text[i]))
            return false;
    return true;
}

/* The next item of a list separated by commas and spaces. */
static bool next_origin(const char **list, const char **item, size_t *size)
{
    *item = *list + strspn(*list, ", ");
    *size = strcspn(*item, ", ");
    *list = *item + *size;
    return *size > 0;
}

static bool is_listed(const char *origin)
{
    const char *list = flag ? flag->cors_origin : "", *item;
    for (size_t size; next_origin(&list, &item, &size);)
        if ((size == 1 && *item == '*') ||
            (strlen(origin) == size && memcmp(origin, item, size) == 0))
            return true;
    return false;
}

/* Is it an IP address or a name of localhost, so not a DNS name that others can point at this
 * machine? */
static bool is_own_name(const char *host)
{
    const size_t name = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (host[0] == '[' || strspn(host, "0123456789.") == name)
        return true;
    return (name == 9 && strncasecmp(host, "localhost", 9) == 0) ||
           (name > 10 && strncasecmp(host + name - 10, ".localhost", 10) == 0);
}

bool access_by_origin(const char *origin, const char *host, bool local, bool *shared, problem *p)
{
    /* The reply repeats the origin of a page that may read it, and has not room for any length. */
    enum { ORIGIN_MAX = 1024 };
    *shared = origin && strlen(origin) <= ORIGIN_MAX && is_listed(origin);
    if (!origin || *shared)
        return true;
    const char *from = strstr(origin, "://");
    /* A page of this service itself: its origin equals Host. For local connections a host name is
     * not enough, since anyone can point a DNS name at 127.0.0.1 (DNS rebinding). */
    if (from && host && strcasecmp(from + 3, host) == 0 && (!local || is_own_name(host)))
        return true;
    return problem_set(
        p, 403, "foreign_origin",
        "web pages of %.100s may not use this service; --cors-origin lists those that "
        "may",
        origin);
}

/* Beginning. */

bool access_setup(const flags *f)
{
    const char *list = f->cors_origin, *item;
    char said[512];
    flag = f;
    for (size_t size; next_origin(&list, &item, &size);)
        if (!(size == 1 && *item == '*') && !is_origin(item, size)) {
            fprintf(stderr,
                    "lossd: --cors-origin has \"%.*s\"; it must be * or origins such as "
                    "https://example.org:8443, separated by commas\n",
                    (int)(size < 200 ? size : 200), item);
            return false;
        }
    if (has_keys() && !read_keys(f->api_key_file, &known, said, sizeof said)) {
        fprintf(stderr, "lossd: %s\n", said);
        return false;
    }
    return true;
}

void access_end(void)
{
    free_keys(&known);
}

void access_reload(bool tell)
{
    char said[512];
    keys fresh;
    if (!has_keys())
        return;
    if (!read_keys(flag->api_key_file, &fresh, said, sizeof said)) {
        if (tell)
            log_line(LOG_ERROR, "keys not reloaded", "why", said, NULL);
        return;
    }
    free_keys(&known);
    known = fresh;
    if (!tell)
        return;
    log_entry entry = log_begin(LOG_INFO, "keys reloaded");
    log_number(&entry, "keys", (double)known.count, 0);
    log_end(&entry);
}
