/* SPDX-License-Identifier: MIT */
#include "catalogue/docs.h"

#include <stdint.h>

/* C11 cannot include a file as data, but assemblers can. The paths are relative to the Makefile's
 * directory. */
#define PART(file) ".incbin \"server/catalogue/pages/" file "\"\n"
#define PAGE(name, parts)                                                                          \
    __asm__(".pushsection .rodata\n"                                                               \
            ".balign 8\n" #name "_size: .8byte " #name "_end - " #name "\n" #name ":\n" parts      \
            ".ascii \"</script>\\n</body>\\n</html>\\n\"\n" #name "_end:\n"                        \
            ".popsection\n");                                                                      \
    extern const uint64_t name##_size;                                                             \
    extern const char name[];

PAGE(page_docs, PART("head.html") PART("page.css") PART("docs.html") PART("page.js") PART("math.js")
                    PART("picture.js") PART("docs.js"))
PAGE(page_status,
     PART("head.html") PART("page.css") PART("status.html") PART("page.js") PART("status.js"))

span docs_page(void)
{
    return (span){page_docs, page_docs_size};
}

span docs_status(void)
{
    return (span){page_status, page_status_size};
}
