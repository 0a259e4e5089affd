/* SPDX-License-Identifier: MIT
 *
 * Log lines: each event is one line with its fields, whatever the values contain.
 */
#include "tests/help.h"

#include <jansson.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tell/log.h"

static char line[65536];
static size_t size;
static int ends[2], kept;

static void begin(void)
{
    assert_int_equal(pipe(ends), 0);
    kept = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
}

/* The text written since begin. It fits in a pipe. */
static void end(void)
{
    log_flush();
    dup2(kept, STDERR_FILENO);
    close(kept);
    size = 0;
    for (ssize_t n; (n = read(ends[0], line + size, sizeof line - 1 - size)) > 0;)
        size += (size_t)n;
    line[size] = '\0';
    close(ends[0]);
}

static int lines(void)
{
    int n = 0;
    for (size_t i = 0; i < size; i++)
        n += line[i] == '\n';
    return n;
}

static json_t *parsed(void)
{
    json_error_t error;
    assert_int_equal(lines(), 1);
    assert_int_equal(line[size - 1], '\n');
    json_t *tree = json_loadb(line, size, JSON_REJECT_DUPLICATES, &error);
    if (!tree)
        fail_msg("%s: %s", line, error.text);
    return tree;
}

static const char *member(const json_t *tree, const char *name)
{
    return json_string_value(json_object_get(tree, name));
}

static void levels(void **unused)
{
    (void)unused;
    for (int least = LOG_ERROR; least <= LOG_DEBUG; least++)
        for (int level = LOG_ERROR; level <= LOG_DEBUG; level++) {
            log_set(false, least);
            begin();
            log_line(level, "event", NULL);
            end();
            assert_int_equal(lines(), level <= least);
            assert_int_equal(log_wants(level), level <= least);
        }
}

static void text_lines(void **unused)
{
    (void)unused;
    log_set(false, LOG_INFO);
    begin();
    log_line(LOG_WARN, "request", "path", "/v1/losses", "none", NULL, "empty", "", "two", "a b",
             "pair", "a=b", "quoted", "a\"b", NULL);
    end();
    assert_int_equal(lines(), 1);
    /* 2024-01-01T00:00:00.000Z */
    assert_int_equal(strspn(line, "0123456789-T:.Z"), 24);
    assert_string_equal(line + 24,
                        " warn request path=/v1/losses empty=\"\" two=\"a b\" pair=\"a=b\" "
                        "quoted=\"a\\\"b\"\n");
}

static void json_lines(void **unused)
{
    (void)unused;
    log_set(true, LOG_INFO);
    begin();
    log_line(LOG_ERROR, "request", "path", "/", "none", NULL, "status", "200", NULL);
    end();
    json_t *tree = parsed();
    assert_int_equal(json_object_size(tree), 5);
    assert_string_equal(member(tree, "level"), "error");
    assert_string_equal(member(tree, "event"), "request");
    assert_string_equal(member(tree, "path"), "/");
    assert_string_equal(member(tree, "status"), "200");
    assert_int_equal(strlen(member(tree, "time")), 24);
    json_decref(tree);
}

/* Values with which a client might try to forge a line or a field. */
static void injection(void **unused)
{
    (void)unused;
    static const char *const values[] = {
        "\n2024-01-01T00:00:00.000Z info request status=200",
        "\r\nfoo",
        "x status=200",
        "x\" status=\"200",
        "\",\"status\":\"200",
        "\\",
        "\\\"",
        "\x1b[2J\x1b[31m",
        "\b\b\b\b",
        "\xc2\x85next", /* NEL */
        "\xc2\x9b[31m",
        "\xe2\x80\xa8line",
        "\xff\xfe\x80",
        "\xe2\x80",
        "\x7f",
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        for (int json = 0; json < 2; json++) {
            log_set(json, LOG_INFO);
            begin();
            log_line(LOG_INFO, "request", "path", values[i], "status", "404", NULL);
            end();
            for (size_t k = 0; k + 1 < size; k++)
                if ((unsigned char)line[k] < ' ' || line[k] == 0x7f)
                    fail_msg("a control character in %s", line);
            assert_null(strstr(line, "\xc2\x85"));
            assert_null(strstr(line, "\xc2\x9b"));
            assert_null(strstr(line, "\xe2\x80\xa8"));
            if (json) {
                json_t *tree = parsed();
                assert_int_equal(json_object_size(tree), 5);
                assert_string_equal(member(tree, "status"), "404");
                json_decref(tree);
                continue;
            }
            /* The value is one JSON string, and the status follows it. */
            json_error_t error;
            char *value = strstr(line, " path=");
            assert_non_null(value);
            json_t *tree = json_loads(value + 6, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &error);
            if (!tree)
                fail_msg("%s: %s", line, error.text);
            assert_string_equal(value + 6 + error.position, " status=404\n");
            json_decref(tree);
        }
}

/* Long values are cut; the line still ends, and the other fields are there. */
static void long_values(void **unused)
{
    (void)unused;
    static char text[20001];
    memset(text, 'x', sizeof text - 1);
    for (int json = 0; json < 2; json++)
        for (size_t n = 200; n < 20000; n = n < 300 ? n + 1 : n + 500) {
            text[n] = '\0';
            log_set(json, LOG_INFO);
            begin();
            log_line(LOG_INFO, "request", "id", "7", "path", text, "status", "404", NULL);
            log_line(LOG_INFO, "next", NULL);
            end();
            text[n] = 'x';
            assert_int_equal(lines(), 2);
            char *second = strchr(line, '\n') + 1;
            assert_non_null(strstr(second, "next"));
            *second = '\0';
            assert_int_equal(strstr(line, "xxx...") != NULL, n >= 256);
            assert_non_null(strstr(line, json ? "\"id\":\"7\"" : " id=7"));
            assert_non_null(strstr(line, json ? "\"status\":\"404\"}\n" : " status=404\n"));
        }
}

/* More than fits in a line: some fields are missing, but the others are complete. */
static void long_lines(void **unused)
{
    (void)unused;
    static char text[2001];
    memset(text, '\n', sizeof text - 1);
    for (int json = 0; json < 2; json++)
        for (int round = 0; round < 3000; round++) {
            const char *value[6];
            for (int i = 0; i < 6; i++)
                value[i] = text + (round % 3 ? 1700 + random_below(300) : 0);
            log_set(json, LOG_INFO);
            begin();
            log_line(LOG_INFO, "request", "a", value[0], "b", value[1], "c", value[2], "d",
                     value[3], "e", value[4], "f", value[5], NULL);
            log_line(LOG_INFO, "next", NULL);
            end();
            assert_int_equal(lines(), 2);
            char *second = strchr(line, '\n') + 1;
            assert_true(second - line <= 8192);
            assert_non_null(strstr(second, "next"));
            size = (size_t)(second - line);
            *second = '\0';
            if (json) {
                json_decref(parsed());
            } else {
                char last = line[size - 2];
                assert_true(last == '"' || last == 't'); /* of a value, or of the event */
            }
        }
}

/* A log that nobody reads does not block. */
static void closed(void **unused)
{
    (void)unused;
    log_set(false, LOG_INFO);
    int saved = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    log_line(LOG_INFO, "event", "name", "value", NULL);
    log_flush();
    dup2(saved, STDERR_FILENO);
    close(saved);
}

/* How many bytes have been written. */
static size_t waiting(void)
{
    int n = 0;
    assert_int_equal(ioctl(ends[0], FIONREAD, &n), 0);
    return (size_t)n;
}

/* Lines are written in blocks of whole lines that a pipe takes at once; warnings and errors, and
 * what came before them, at once. */
static void blocks(void **unused)
{
    (void)unused;
    log_set(false, LOG_INFO);
    begin();
    log_line(LOG_INFO, "first", NULL);
    assert_int_equal(waiting(), 0);
    log_flush();
    const size_t one = waiting();
    assert_true(one > 0);
    log_line(LOG_INFO, "second", NULL);
    log_line(LOG_WARN, "third", NULL);
    assert_true(waiting() > 2 * one);
    int written = 0;
    for (size_t before = waiting(), i = 0; i < 1000; i++) {
        log_line(LOG_INFO, "more", "number", i % 7 ? "1" : "a longer text than the others", NULL);
        const size_t now = waiting();
        assert_true(now - before <= PIPE_BUF);
        written += now > before;
        before = now;
    }
    assert_in_range(written, 5, 30);
    end();
    assert_int_equal(lines(), 1003);
    const char *at = line;
    static const char *const events[] = {"first", "second", "third", "more"};
    for (int i = 0; i < 4; i++)
        assert_non_null(at = strstr(at, events[i]));
}

static void numbers(void **unused)
{
    (void)unused;
    static const struct {
        double number;
        int digits;
        const char *text;
    } cases[] = {{0, 0, " n=0\n"},
                 {7, 0, " n=7\n"},
                 {1.0005, 3, " n=1.001\n"},
                 {0.0004, 3, " n=0.000\n"},
                 {12.5, 1, " n=12.5\n"},
                 {0.9996, 3, " n=1.000\n"},
                 {1e12, 3, " n=1000000000000.000\n"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        log_set(false, LOG_INFO);
        begin();
        log_entry entry = log_begin(LOG_INFO, "event");
        log_number(&entry, "n", cases[i].number, cases[i].digits);
        log_end(&entry);
        end();
        assert_non_null(strstr(line, cases[i].text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels),    cmocka_unit_test(text_lines),  cmocka_unit_test(json_lines),
        cmocka_unit_test(injection), cmocka_unit_test(long_values), cmocka_unit_test(long_lines),
        cmocka_unit_test(closed),    cmocka_unit_test(blocks),      cmocka_unit_test(numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
