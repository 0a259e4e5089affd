/* SPDX-License-Identifier: MIT
 *
 * Request heads: VERSION newline TARGET newline, then one header per line, NAME:VALUE. A second,
 * simpler parser must find only one way to read what the guard accepts.
 */
#include "fuzz.h"

#include "server/http/head.h"

#include <ctype.h>
#include <strings.h>

/* The next line as a string of its own, so that a sanitizer sees a read beyond it. NULL at the end.
 */
static char *take_line(const uint8_t **data, size_t *size)
{
    if (*size == 0)
        return NULL;
    const uint8_t *end = memchr(*data, '\n', *size);
    const size_t length = end ? (size_t)(end - *data) : *size;
    char *line = malloc(length + 1);
    REQUIRE(line);
    memcpy(line, *data, length);
    line[length] = '\0';
    *data += length + (end != NULL);
    *size -= length + (end != NULL);
    return line;
}

static void check_headers(const char *version, const uint8_t *data, size_t size)
{
    int lengths = 0, encodings = 0, hosts = 0;
    long long length = 0;
    bool clean = true;
    guard g = {0};
    problem p = {0};
    char *line;
    while ((line = take_line(&data, &size))) {
        char *value = strchr(line, ':');
        if (value) {
            *value++ = '\0';
            const span its =
                guard_header(&g, (span){line, strlen(line)}, (span){value, strlen(value)});
            REQUIRE(its.data == value && its.size <= strlen(value));
            for (const char *c = value; *c != '\0'; c++)
                clean = clean && (!iscntrl((unsigned char)*c) || *c == '\t');
            for (const char *c = line; *c != '\0'; c++)
                clean = clean && *c > ' ' && *c < 0x7f && !strchr("\"(),/:;<=>?@[\\]{}", *c);
            hosts += strcasecmp(line, "host") == 0;
            if (strcasecmp(line, "content-length") == 0) {
                lengths++;
                length = strtoll(value, NULL, 10);
                clean = clean && value[0] != '\0' && strspn(value, "0123456789") == strlen(value);
            }
            if (strcasecmp(line, "transfer-encoding") == 0) {
                encodings++;
                clean = clean && strcasecmp(value, "chunked") == 0;
            }
            for (char *end = value + strlen(value); end > value && strchr(" \t", end[-1]);)
                *--end = '\0';
            REQUIRE(its.size == strlen(value));
            if (strcasecmp(line, "host") == 0)
                clean = clean && !strpbrk(value, " \t/?#@\"<>\\^`{|}");
        }
        free(line);
    }
    if (!guard_passes(&g, version, &p)) {
        REQUIRE(p.status == 400 && p.detail[0] != '\0');
        return;
    }
    REQUIRE(p.status == 0 && clean);
    REQUIRE(lengths + encodings <= 1 && hosts <= 1);
    REQUIRE(hosts == 1 || strcmp(version, "HTTP/1.0") == 0);
    REQUIRE(encodings == 0 || strcmp(version, "HTTP/1.0") != 0);
    REQUIRE(g.length == (encodings ? -1 : length));
}

/* Segments joined and encoded byte by byte must be split into the same segments again. */
static void check_target(char *line)
{
    target t, again;
    problem p = {0};
    char *joined = malloc(3 * strlen(line) + TARGET_SEGMENTS + 1), *to = joined;
    REQUIRE(joined);
    if (!target_split(line, &t, &p)) {
        REQUIRE((p.status == 400 || p.status == 404) && p.detail[0] != '\0');
        free(joined);
        return;
    }
    REQUIRE(t.segments <= TARGET_SEGMENTS && t.query);
    for (int i = 0; i < t.segments; i++) {
        REQUIRE(strcmp(t.segment[i], "..") != 0 && strcmp(t.segment[i], ".") != 0);
        *to++ = '/';
        for (const char *c = t.segment[i]; *c != '\0'; c++) {
            REQUIRE(*c != '/' && !iscntrl((unsigned char)*c));
            to += sprintf(to, "%%%02X", (unsigned char)*c);
        }
    }
    *to = '\0';
    if (t.segments > 0) {
        REQUIRE(target_split(joined, &again, &p) && again.segments == t.segments);
        for (int i = 0; i < t.segments; i++)
            REQUIRE(strcmp(again.segment[i], t.segment[i]) == 0);
    }
    free(joined);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *version = take_line(&data, &size), *line = version ? take_line(&data, &size) : NULL;
    if (line) {
        (void)head_is_traceparent(line);
        check_headers(version, data, size);
        check_target(line);
    }
    free(version);
    free(line);
    return 0;
}
