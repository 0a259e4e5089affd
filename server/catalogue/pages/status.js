/* /status: what the service does now, from readings of /metrics: rates since the one before, times of the last minute. */

const EVERY = 2000; // ms
const WINDOW = 30; // readings of the curves, a minute
const PARTS = ["queue", "decode", "compute", "encode"];

/* The text format of Prometheus: a map of names to { help, type, samples: [{ labels, value }] }. */
function parse(text) {
  const found = new Map();
  const family = (name) => {
    if (!found.has(name)) found.set(name, { samples: [] });
    return found.get(name);
  };
  for (const line of text.split("\n")) {
    const [, what, name, rest] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    if (what) family(name)[what.toLowerCase()] = rest;
    const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!sample) continue;
    const labels = Object.fromEntries([...(sample[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, value]) => [label, value]));
    family(sample[1]).samples.push({ labels, value: Number(sample[3]) });
  }
  return found;
}

class Reading {
  constructor(text) {
    this.time = performance.now() / 1000;
    this.families = parse(text);
  }

  samples(name) {
    return this.families.get(`lossd_${name}`)?.samples ?? [];
  }

  value(name) {
    return this.samples(name).reduce((sum, { value }) => sum + value, 0);
  }
}

/* Sums of the samples of a counter by what `by` says of their labels. */
function sums(reading, name, by) {
  const found = new Map();
  for (const { labels, value } of reading.samples(name)) found.set(by(labels), (found.get(by(labels)) ?? 0) + value);
  return found;
}

const rate = (now, before, name) => Math.max(0, now.value(name) - before.value(name)) / (now.time - before.time);

/* The time that a part of the requests between two readings took at most, within the width of a bucket; NaN of none. */
function quantile(now, before, name, part) {
  const old = new Map(before.samples(`${name}_bucket`).map(({ labels, value }) => [labels.le, value]));
  const counts = now.samples(`${name}_bucket`).map(({ labels, value }) => [Number(labels.le.replace("+Inf", "Infinity")), value - (old.get(labels.le) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return NaN;
  let [low, below] = [0, 0];
  for (const [high, count] of counts) {
    if (count >= part * total) return high === Infinity ? low : low + ((high - low) * (part * total - below)) / (count - below);
    [low, below] = [high, count];
  }
  return low;
}

const amount = (x) => (Number.isNaN(x) ? "–" : x >= 100 || Number.isInteger(x) ? Math.round(x).toLocaleString("en") : x.toPrecision(2));
const ms = (seconds) => (Number.isNaN(seconds) ? "–" : `${amount(1000 * seconds)} ms`);
const bytes = (x) => {
  const k = Math.min(4, x > 0 ? Math.floor(Math.log2(x) / 10) : 0);
  return `${amount(k ? x / 2 ** (10 * k) : x)} ${["B", "KiB", "MiB", "GiB", "TiB"][k]}`;
};

/* The curve of the last minute. */
function curve(values, label) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const known = values.map((x) => (Number.isNaN(x) ? 0 : x));
  const most = Math.max(...known) || 1;
  const points = known.map((x, i) => `${(WINDOW - known.length + i) * (100 / (WINDOW - 1))},${29 - (28 * x) / most}`);
  for (const [name, value] of Object.entries({ viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label })) svg.setAttribute(name, value);
  for (const [name, value] of Object.entries({ points: points.join(" "), fill: "none", stroke: "currentColor", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" })) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}

const past = new Map(); // the values of each curve

function card(title, value, { of, then, number, bad } = {}) {
  const parts = [make("div", { className: "dim" }, title), make("div", { className: `value ${bad ? "bad" : ""}` }, value)];
  if (of !== undefined) parts.push(make("meter", { max: of || 1, value: number, ariaLabel: title }), make("div", { className: "dim" }, then));
  else if (number !== undefined) {
    const values = [...(past.get(title) ?? []), number].slice(-WINDOW);
    past.set(title, values);
    parts.push(curve(values, `${title} in the last minute`));
  }
  return make("li", {}, parts);
}

function cards(now, before, minute) {
  const total = rate(now, before, "requests_total");
  const failed = sums(now, "requests_total", ({ status }) => status >= "500");
  const earlier = sums(before, "requests_total", ({ status }) => status >= "500");
  const errors = ((failed.get(true) ?? 0) - (earlier.get(true) ?? 0)) / (now.time - before.time);
  const [middle, high, highest] = [0.5, 0.9, 0.99].map((part) => quantile(now, minute, "request_duration_seconds", part));
  const [budget, workers, queue] = ["memory_budget_bytes", "workers", "queue_limit_jobs"].map((name) => now.value(name));
  const [reserved, busy, jobs] = ["queue_bytes", "workers_busy", "queue_jobs"].map((name) => now.value(name));
  return make("ul", { className: "cards" },
    card("requests a second", amount(total), { number: total }),
    card("5xx a second", amount(errors), { number: errors, bad: errors > 0 }),
    card("refused a second", amount(rate(now, before, "rejected_total")), { number: rate(now, before, "rejected_total") }),
    card("median time", ms(middle), { number: middle }),
    card("90 % within", ms(high), { number: high }),
    card("99 % within", ms(highest), { number: highest }),
    card("jobs that wait", amount(jobs), { of: queue, then: `of ${amount(queue)}`, number: jobs }),
    card("workers busy", amount(busy), { of: workers, then: `of ${amount(workers)}`, number: busy }),
    card("memory reserved", bytes(reserved), { of: budget, then: `of ${bytes(budget)}`, number: reserved }),
    card("connections", amount(now.value("connections")), { number: now.value("connections") }),
    card("received a second", bytes(rate(now, before, "received_bytes_total")), { number: rate(now, before, "received_bytes_total") }),
    card("sent a second", bytes(rate(now, before, "sent_bytes_total")), { number: rate(now, before, "sent_bytes_total") }));
}

/* Of a counter, by labels: what there was since the start, and a second now; what never was is left out. */
function counted(now, before, name, labels) {
  const by = (all) => labels.map((label) => all[label]).join(" ");
  const old = sums(before, name, by);
  return [...sums(now, name, by)].filter(([, value]) => value > 0)
    .map(([words, value]) => [...words.split(" "), amount(value), amount((value - (old.get(words) ?? 0)) / (now.time - before.time))])
    .sort((a, b) => (a.join() < b.join() ? -1 : 1));
}

/* Memory that requests may name, of the kinds of which there is some. */
function regions(now) {
  const size = sums(now, "region_bytes", ({ kind }) => kind);
  return [...sums(now, "regions", ({ kind }) => kind)].filter(([, count]) => count > 0)
    .map(([kind, count]) => [kind, amount(count), bytes(size.get(kind))]);
}

function tables(now, before, minute) {
  const list = (title, heads, rows, none) =>
    [make("h2", {}, title), rows.length ? table(heads, rows, "list figures") : make("p", { className: "dim" }, none)];
  const counts = (title, name, labels) => list(title, [...labels, "since the start", "a second"], counted(now, before, name, labels), "none so far");
  const shown = /_(bucket|sum|count)$|^lossd_(regions|region_bytes|requests_total|rejected_total|elements_total|build_info|connections|queue_\w+|workers\w*|memory_budget_bytes|received_bytes_total|sent_bytes_total)$/;
  const rest = [...now.families].filter(([name, { type }]) => !shown.test(name) && (type === "gauge" || type === "counter"))
    .map(([name, { help }]) => [code(name), amount(now.value(name.slice(6))), help]);
  const parts = PARTS.map((part) => [part, ...[0.5, 0.9, 0.99].map((q) => ms(quantile(now, minute, `${part}_duration_seconds`, q)))]);
  return [
    ...counts("Requests", "requests_total", ["loss", "codec", "status"]),
    ...counts("Refused for want of room, time or right", "rejected_total", ["reason"]),
    make("h2", {}, "Where the time of the last minute went"), table(["", "median", "90 %", "99 %"], parts, "list times"),
    ...list("Regions", ["kind", "number", "bytes"], regions(now), "none now"),
    make("h2", {}, "Others"), table(["metric", "now", ""], rest, "list"),
  ];
}

const readings = [];
let timer;

async function show() {
  clearTimeout(timer);
  timer = setTimeout(() => withKey(show), EVERY);
  const reply = await ask("metrics");
  if (!reply.ok) {
    clearTimeout(timer);
    throw new Error((await reply.json()).detail);
  }
  const now = new Reading(await reply.text());
  const { labels } = now.samples("build_info")[0];
  at("version").textContent = `${labels.version}, ${labels.isa}`;
  const [before, minute] = [readings.at(-1) ?? now, readings[0] ?? now];
  at("now").replaceChildren(cards(now, before, minute), ...tables(now, before, minute));
  readings.push(now);
  if (readings.length > WINDOW) readings.shift();
}

withKey(show);
