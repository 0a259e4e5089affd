#!/usr/bin/env node
// Can /docs typeset the formula of every loss? math.js is run here, without a browser: on elements that only remember.
//
//     tests/browser/formulas.mjs --lossd build/lossd
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({ options: { lossd: { type: "string", default: "build/lossd" } } });

class Element {
  dataset = {};
  attributes = new Map();
  constructor(name) {
    this.name = name;
    this.children = [];
  }
  append(...children) {
    this.children.push(...children);
  }
  setAttribute(name, value) {
    this.attributes.set(name, value);
  }
  getAttribute(name) {
    return this.attributes.get(name) ?? null;
  }
}

const source = readFileSync(new URL("../../server/catalogue/pages/math.js", import.meta.url), "utf8");
const typeset = new Function("document", `${source}; return typeset;`)({
  createElementNS: (_, name) => new Element(name),
});
const { losses } = JSON.parse(execFileSync(flags.lossd, ["describe", "--json"], { encoding: "utf8", maxBuffer: 1 << 26 }));
let failed = 0;
for (const { name, tex } of losses.filter((loss) => loss.tex)) {
  try {
    if (typeset(tex).children.length === 0) throw new Error("nothing comes of it");
  } catch (error) {
    console.log(`FAILED  ${name}: ${error.message}\n        ${tex}`);
    failed++;
  }
}
console.log(`${losses.length - failed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
