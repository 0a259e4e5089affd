/* SPDX-License-Identifier: MIT
 *
 * Pages for people, /docs and /status. Each is put together of files in pages/ when this is
 * compiled.
 */
#ifndef LOSSD_DOCS_H
#define LOSSD_DOCS_H

#include "cursor.h"

span docs_page(void);
span docs_status(void);

#endif
