/* SPDX-License-Identifier: MIT
 *
 * The documentation page for people, a file that is part of the program.
 */
#ifndef LOSSD_DOCS_H
#define LOSSD_DOCS_H

#include "cursor.h"

/* HTML in UTF-8; it lives as long as the program. */
span docs_page(void);

#endif
