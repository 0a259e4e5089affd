/* SPDX-License-Identifier: MIT
 *
 * What lossd says of itself: every flag is in the help, the manual page and the completion, the
 * page has nothing that its formatter would take for a request, and the first request is for the
 * address that is listened on.
 */
#include "tests/help.h"

#include "catalogue/greeting.h"
#include "catalogue/manual.h"

enum { PAGE_MAX = 1 << 20 };

static void (*const pages[])(buffer *) = {manual_help, manual_page, manual_completion};

static void every_flag_is_told(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        buffer text = buffer_new(PAGE_MAX);
        flag_text flag;
        pages[i](&text);
        buffer_append(&text, "", 1);
        assert_false(text.failed);
        assert_null(strstr(text.data, "(null)"));
        for (int k = 0; flags_tell(k, &flag); k++) {
            char name[128] = "--", *end = name + 2;
            if (pages[i] == manual_page)
                end = name + sprintf(name, "\\fB\\-\\-");
            for (const char *c = flag.name; *c != '\0'; c++)
                end += sprintf(end, "%s%c", pages[i] == manual_page && *c == '-' ? "\\" : "", *c);
            if (!strstr(text.data, name))
                fail_msg("page %zu has no %s", i, name);
        }
        buffer_free(&text);
    }
}

static void the_page_is_roff(void **unused)
{
    (void)unused;
    static const char *const requests[] = {".TH ", ".SH ", ".TP", ".B ",
                                           ".BR ", ".I ",  ".nf", ".fi"};
    buffer text = buffer_new(PAGE_MAX);
    manual_page(&text);
    buffer_append(&text, "", 1);
    for (const char *line = text.data; *line != '\0'; line = strchr(line, '\n') + 1) {
        bool known = *line != '.' && *line != '\'';
        for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
            known = known || strncmp(line, requests[i], strlen(requests[i])) == 0;
        if (!known)
            fail_msg("%.*s", (int)strcspn(line, "\n"), line);
    }
    buffer_free(&text);
}

static void greets(const flags *f, const char *url, const char *must_say)
{
    buffer text = buffer_new(PAGE_MAX);
    greeting_write(f, url, &text);
    buffer_append(&text, "", 1);
    if (!strstr(text.data, must_say))
        fail_msg("%s: \"%s\" is not in: %s", url, must_say, text.data);
    buffer_free(&text);
}

static void the_first_request(void **unused)
{
    (void)unused;
    const flags plain = {.api_key_file = "", .tls_client_ca = ""};
    const flags keyed = {.api_key_file = "my 'keys'", .tls_client_ca = "ca.pem"};
    greets(&plain, "http://127.0.0.1:8080", " http://127.0.0.1:8080/v1/losses/");
    greets(&plain, "http://127.0.0.1:8080", ": http://127.0.0.1:8080/docs\n");
    greets(&plain, "http://0.0.0.0:8081", " http://127.0.0.1:8081/v1/losses/");
    greets(&plain, "http://[::]:8082", " http://[::1]:8082/v1/losses/");
    greets(&plain, "unix:/run/lossd/s", " --unix-socket '/run/lossd/s' ");
    greets(&plain, "unix:/run/lossd/s", " http://localhost/v1/losses/");
    greets(&keyed, "https://127.0.0.1:8443", " --insecure --cert ");
    greets(&keyed, "https://127.0.0.1:8443", "'my '\\''keys'\\''')\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flag_is_told),
        cmocka_unit_test(the_page_is_roff),
        cmocka_unit_test(the_first_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
