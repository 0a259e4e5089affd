/* SPDX-License-Identifier: MIT
 *
 * The documentation page (/docs): an HTML file that is linked into the program.
 */
#ifndef LOSSD_DOCS_H
#define LOSSD_DOCS_H

#include "cursor.h"

/* HTML in UTF-8; always valid. */
span docs_page(void);

#endif
