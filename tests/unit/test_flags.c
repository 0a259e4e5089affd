/* SPDX-License-Identifier: MIT
 *
 * Flags: defaults, environment and command line, each overriding the one before, and the messages
 * for invalid ones.
 */
#define _DEFAULT_SOURCE /* setenv, dup2 */
#include "tests/help.h"

#include <fcntl.h>
#include <unistd.h>

#include "flags.h"

static char said[4096]; /* on stderr, by the last parse */

/* Parse words, the last of which is NULL, as if the program's name came first. */
static bool parse(flags *f, const char *const *text, int *words, bool *help)
{
    char *argv[32] = {exactly("lossd", 6)};
    int argc = 1, ends[2];
    for (; text[argc - 1]; argc++)
        argv[argc] = exactly(text[argc - 1], strlen(text[argc - 1]) + 1);
    assert_int_equal(pipe(ends), 0);
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    bool ok = flags_parse(f, argc, argv, 1, words, help);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    ssize_t n = read(ends[0], said, sizeof said - 1);
    said[n < 0 ? 0 : n] = '\0';
    close(ends[0]);
    /* Addresses point into the words, so these live on. */
    static char *live[32];
    for (int i = 0; i < 32; i++) {
        free(live[i]);
        live[i] = argv[i];
    }
    return ok;
}

static void refused(const char *first, const char *second, const char *must_say)
{
    const char *const text[] = {first, second, NULL};
    flags f;
    bool help;
    if (parse(&f, text, NULL, &help))
        fail_msg("%s %s was accepted", first, second ? second : "");
    const char *end = strchr(said, '\n');
    if (!end || end[1] != '\0' || strncmp(said, "lossd: ", 7) != 0 || !strstr(said, must_say) ||
        strstr(said, "(null)"))
        fail_msg("%s %s: \"%s\" is not one line that says \"%s\"", first, second ? second : "",
                 said, must_say);
}

static void accepted(flags *f, const char *first, const char *second)
{
    const char *const text[] = {first, second, NULL};
    bool help;
    if (!parse(f, text, NULL, &help))
        fail_msg("%s %s: %s", first, second ? second : "", said);
    assert_string_equal(said, "");
    assert_false(help);
}

static void defaults(void **unused)
{
    (void)unused;
    flags f;
    accepted(&f, NULL, NULL);
    assert_int_equal(f.listens, 1);
    assert_string_equal(f.listen[0], "127.0.0.1:8080");
    assert_int_equal(f.max_body, 64 << 20);
    assert_int_equal(f.memory_budget, 1 << 30);
    assert_true(f.drain_max == (int64_t)2 << 30);
    assert_int_equal(f.queue_limit, 1024);
    assert_int_equal(f.max_connections, 1024);
    assert_int_equal(f.drain_timeout, 30000);
    assert_int_equal(f.drain_delay, 0);
    assert_true(f.workers >= 1);
    assert_string_equal(f.isa, "auto");
    assert_string_equal(f.log_format, "text");
    assert_string_equal(f.log_level, "info");
}

static void units(void **unused)
{
    (void)unused;
    flags f;
    static const struct {
        const char *text;
        int64_t bytes;
    } cases[] = {{"4096", 4096},    {"4096B", 4096},   {"1KiB", 1024},
                 {"3MiB", 3 << 20}, {"1GiB", 1 << 30}, {"1024GiB", (int64_t)1 << 40}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        accepted(&f, "--max-body", cases[i].text);
        assert_true(f.max_body == cases[i].bytes);
    }
    accepted(&f, "--idle-timeout=1500ms", NULL);
    assert_int_equal(f.idle_timeout, 1500);
    accepted(&f, "--idle-timeout=2s", NULL);
    assert_int_equal(f.idle_timeout, 2000);
    accepted(&f, "--drain-timeout", "5m");
    assert_int_equal(f.drain_timeout, 300000);
    accepted(&f, "--workers", "512");
    assert_int_equal(f.workers, 512);
    accepted(&f, "--log-format=json", NULL);
    assert_string_equal(f.log_format, "json");
}

static void bad_values(void **unused)
{
    (void)unused;
    refused("--max-body", "64MB", "64MiB");
    refused("--max-body", "", "64MiB");
    refused("--max-body", "-1", "64MiB");
    refused("--max-body", " 4096", "64MiB");
    refused("--max-body", "4096 ", "64MiB");
    refused("--max-body", "0x1000", "64MiB");
    refused("--max-body", "1.5MiB", "64MiB");
    refused("--max-body", "99999999999999999999", "64MiB");
    refused("--max-body", "9223372036854775807GiB", "64MiB");
    /* Out of range: the message gives the range. */
    refused("--max-body", "1", "from 1024");
    refused("--idle-timeout", "10ms", "from 1000");
    refused("--idle-timeout", "10", "ms");
    refused("--drain-delay", "2000m", "86400000");
    refused("--workers", "513", "512");
    refused("--workers", "2x", "whole number");
    refused("--queue-limit", "0", "from 1");
    refused("--log-level", "loud", "debug");
    refused("--log-format", "", "json");
    refused("--log-format", "text|json", "json");
    refused("--log-format=", NULL, "json");
    /* Values that are missing. */
    refused("--workers", NULL, "value");
    refused("--isa", NULL, "value");
    refused("--listen", NULL, "host:port");
    /* Unknown names. */
    refused("--worker", "1", "--help");
    refused("--workers1", "1", "--help");
    refused("-workers", "1", "--help");
    refused("---workers", "1", "--help");
    refused("--", NULL, "--help");
    refused("-", NULL, "--help");
    refused("--=1", NULL, "--help");
    refused("word", NULL, "--help");
}

static void addresses(void **unused)
{
    (void)unused;
    static const char *const good[] = {"127.0.0.1:0", "127.0.0.1:65535", "localhost:80",
                                       "[::1]:8080",  "[::]:1",          "unix:/run/lossd.sock"};
    static const char *const bad[] = {
        "",        "8080",     ":8080", "127.0.0.1", "a:",      "a:b",   "a:65536",   "a:-1",
        "a:8080x", "a:123456", "[::1]", "[::1:80",   "::1]:80", "unix:", "unix:sock", "a: 80"};
    flags f;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        accepted(&f, "--listen", good[i]);
        assert_int_equal(f.listens, 1);
        assert_string_equal(f.listen[0], good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused("--listen", bad[i], "host:port");
    char path[200] = "unix:/";
    memset(path + 6, 'x', 106);
    accepted(&f, "--listen", path);
    memset(path + 6, 'x', 107); /* sun_path has 108 bytes, one of them for the NUL */
    refused("--listen", path, "unix:/");
    bool help;
    const char *const two[] = {"--listen", "a:1", "--listen=b:2", NULL};
    assert_true(parse(&f, two, NULL, &help));
    assert_int_equal(f.listens, 2);
    assert_string_equal(f.listen[1], "b:2");
    const char *many[20] = {0};
    for (int i = 0; i <= LISTEN_MAX; i++)
        many[i] = "--listen=a:1";
    assert_false(parse(&f, many, NULL, &help));
    assert_non_null(strstr(said, "at most 8"));
}

static void environment(void **unused)
{
    (void)unused;
    flags f;
    setenv("LOSSD_MAX_BODY", "2KiB", 1);
    setenv("LOSSD_LISTEN", "a:1 unix:/b", 1);
    setenv("LOSSD_LOG_LEVEL", "warn", 1);
    accepted(&f, "--log-level=debug", NULL);
    assert_int_equal(f.max_body, 2048);
    assert_string_equal(f.log_level, "debug");
    assert_int_equal(f.listens, 2);
    assert_string_equal(f.listen[1], "unix:/b");
    /* The flag wins. */
    setenv("LOSSD_LISTEN", "a:1 b:2", 1);
    accepted(&f, "--listen", "c:3");
    assert_int_equal(f.listens, 1);
    assert_string_equal(f.listen[0], "c:3");
    setenv("LOSSD_MAX_BODY", "much", 1);
    refused(NULL, NULL, "LOSSD_MAX_BODY is \"much\"");
    unsetenv("LOSSD_MAX_BODY");
    setenv("LOSSD_LISTEN", "nowhere", 1);
    refused(NULL, NULL, "LOSSD_LISTEN is \"nowhere\"");
    unsetenv("LOSSD_LISTEN");
    unsetenv("LOSSD_LOG_LEVEL");
}

static void words_and_help(void **unused)
{
    (void)unused;
    flags f;
    bool help;
    int words = -1;
    char text[7][10] = {"lossd", "eval", "huber", "--workers", "3", "file", "-"}, *argv[7];
    for (int i = 0; i < 7; i++)
        argv[i] = text[i];
    assert_true(flags_parse(&f, 7, argv, 2, &words, &help));
    assert_int_equal(words, 3);
    assert_string_equal(argv[2], "huber");
    assert_string_equal(argv[3], "file");
    assert_string_equal(argv[4], "-"); /* no flag: standard input */
    assert_int_equal(f.workers, 3);
    const char *const ask[] = {"--help", "--nonsense", NULL};
    assert_true(parse(&f, ask, NULL, &help));
    assert_true(help);
    const char *const brief[] = {"-h", NULL};
    assert_true(parse(&f, brief, NULL, &help));
    assert_true(help);
}

/* What is said of each flag is there, and what it is said to be by default is what it is. */
static void told(void **unused)
{
    (void)unused;
    flag_text flag;
    flags f;
    int count = 0;
    assert_false(flags_tell(-1, &flag));
    for (; flags_tell(count, &flag); count++) {
        char word[FLAG_VARIABLE + 2];
        snprintf(word, sizeof word, "--%s", flag.name);
        assert_true(flag.value[0] != '\0' && flag.help[0] != '\0');
        assert_true(strncmp(flag.variable, "LOSSD_", 6) == 0);
        accepted(&f, word, flag.fallback[0] != '\0' ? flag.fallback : "name=/some/file");
        setenv(flag.variable, flag.fallback, 1);
        accepted(&f, NULL, NULL);
        unsetenv(flag.variable);
        for (const char *w = flag.words; w && *w != '\0'; w += strspn(w, "|")) {
            char one[64];
            snprintf(one, sizeof one, "%.*s", (int)strcspn(w, "|"), w);
            accepted(&f, word, one);
            w += strcspn(w, "|");
        }
    }
    assert_true(count > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),    cmocka_unit_test(units),
        cmocka_unit_test(bad_values),  cmocka_unit_test(addresses),
        cmocka_unit_test(environment), cmocka_unit_test(words_and_help),
        cmocka_unit_test(told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
