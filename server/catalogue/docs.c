/* SPDX-License-Identifier: MIT */
#include "catalogue/docs.h"

#include <stdint.h>

/* C11 cannot include a file as data, but assemblers can. The path is relative to the Makefile's
 * directory. */
__asm__(".pushsection .rodata\n"
        ".balign 8\n"
        "docs_html_size: .8byte docs_html_end - docs_html\n"
        "docs_html: .incbin \"server/catalogue/docs.html\"\n"
        "docs_html_end:\n"
        ".popsection\n");

extern const uint64_t docs_html_size;
extern const char docs_html[];

span docs_page(void)
{
    return (span){docs_html, docs_html_size};
}
