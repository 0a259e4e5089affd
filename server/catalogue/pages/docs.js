/* /docs: each loss with its formula, what it takes and gives, and a request whose numbers, options and outputs are
 * edited and whose reply is drawn. #LOSS={...} in the address is a loss with a request. */

const WAIT = 150; // ms after the last edit
const CELLS_EDITED = 600; // an input with more is edited as JSON

const forms = (input) => input.forms.map((form) => `${form.shape} ${form.dtypes.join("/")}`).join(", or ");

function range(option) {
  const words = [];
  if (option.choices) words.push(option.choices.join(", "));
  else words.push(option.type);
  if (option.minimum !== undefined) words.push(`≥ ${option.minimum}`);
  if (option.greater_than !== undefined) words.push(`> ${option.greater_than}`);
  if (option.maximum !== undefined) words.push(`≤ ${option.maximum}`);
  if (option.less_than !== undefined) words.push(`< ${option.less_than}`);
  if (option.not !== undefined) words.push(`≠ ${option.not}`);
  if (option.can_be_off) words.push("or null (off)");
  return words.join(" ");
}

/* JSON as somebody would write it: a tensor's rows on a line each. */
function written(value, indent = "") {
  if (Array.isArray(value) || value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}  `;
  const members = Object.entries(value).map(([name, v]) => `${inner}${JSON.stringify(name)}: ${written(v, inner)}`);
  return members.length ? `{\n${members.join(",\n")}\n${indent}}` : "{}";
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/* Where a slider ends: at the option's bounds; without one, where it is of use. */
function ends({ default: preset, minimum, greater_than, maximum, less_than }) {
  const usual = Math.abs(preset ?? 1) || 1;
  const least = minimum ?? greater_than, most = maximum ?? less_than;
  const high = most ?? Math.max(4 * usual, (least ?? 0) + usual);
  const low = least ?? Math.min(-high, high - 4 * usual);
  const step = 10 ** Math.floor(Math.log10((high - low) / 100));
  return {
    low: greater_than === undefined ? low : low + step,
    high: less_than === undefined ? high : high - step,
    step,
  };
}

/* The control of an option, which shows `value` and calls `set`. */
function control(option, value, set) {
  const ariaLabel = option.name;
  if (option.choices) {
    const select = make("select", { ariaLabel }, option.choices.map((choice) => make("option", {}, choice)));
    select.value = value;
    select.onchange = () => set(select.value);
    return select;
  }
  if (option.type === "flag") {
    const box = make("input", { type: "checkbox", checked: value, ariaLabel });
    box.onchange = () => set(box.checked);
    return box;
  }
  if (option.type === "real" || option.type === "integer" || option.type === "unsigned") {
    const { low, high, step } = ends(option);
    const field = make("input", { type: "number", step: "any", ariaLabel, disabled: value === null, value: value ?? "" });
    const parts = [field];
    field.oninput = () => field.value !== "" && send(field.value);
    const slider = make("input", { type: "range", min: low, max: high, step, ariaLabel: `${option.name}, slider`, disabled: value === null });
    slider.value = value ?? low;
    slider.oninput = () => send((field.value = String(Number(slider.value))));
    if (option.type === "real") parts.push(slider);
    const send = (text) => {
      slider.value = text;
      set(Number(text));
    };
    if (option.can_be_off) {
      const on = make("input", { type: "checkbox", checked: value !== null, ariaLabel: `${option.name}, not off` });
      on.onchange = () => {
        field.disabled = slider.disabled = !on.checked;
        if (on.checked) {
          field.value = String(Math.min(Math.max(low, option.default ?? 1), high));
          send(field.value);
        } else {
          field.value = "";
          set(null);
        }
      };
      parts.unshift(on);
    }
    return make("span", { className: "control" }, parts);
  }
  const field = make("input", { value: JSON.stringify(value ?? []), spellcheck: false, autocomplete: "off", ariaLabel });
  field.onchange = () => {
    try {
      set(JSON.parse(field.value));
      field.classList.remove("wrong");
    } catch {
      field.classList.add("wrong");
    }
  };
  return field;
}

/* A request to a loss that is edited, and its reply. */
class Trial {
  #loss;
  #request;
  #timer;
  #running; // a request under way; another edit gives it up
  #parts = {};

  constructor(loss, request) {
    this.#loss = loss;
    this.outputs = make("div");
    const part = this.#parts;
    part.options = make("div");
    part.inputs = make("div");
    part.picture = make("div", { ariaLive: "off" });
    part.head = make("p", { role: "status" });
    part.body = make("textarea", { spellcheck: false, ariaLabel: `Request to ${loss.name}` });
    part.reply = make("pre", { tabIndex: 0, role: "group", ariaLabel: `Reply of ${loss.name}` });
    part.body.oninput = () => this.#read();
    const button = (text, run) => {
      const made = make("button", { type: "button" }, text);
      made.onclick = run;
      return made;
    };
    this.element = make("div", { className: "try", role: "group", ariaLabel: `A request to ${loss.name}` },
      make("div", { className: "seen" }, part.head, part.picture),
      make("div", {}, part.inputs,
        loss.options.length ? [make("h3", {}, "Options"), part.options] : null,
        make("p", {}, button("Copy as curl", () => this.#copy(this.#curl())), " ", button("Copy the link", () => this.#copy(location.href)), " ",
          button("Begin anew", () => this.begin(structuredClone(loss.example)))),
        make("details", {}, make("summary", {}, "The request and its reply as JSON"), part.body, part.reply)));
    this.begin(request ?? structuredClone(loss.example), !request);
  }

  /* Show a request, from its parts on. */
  begin(request, quiet = false) {
    this.#request = request;
    this.#parts.body.value = written(request);
    this.#parts.body.rows = Math.min(14, this.#parts.body.value.split("\n").length);
    this.#draw();
    if (!quiet) this.changed();
  }

  #draw() {
    const { inputs = {}, options = {} } = this.#request;
    const edited = () => this.#edited();
    const tensors = Object.entries(inputs).filter(([, value]) => typeof value !== "object" || Array.isArray(value));
    this.#parts.inputs.replaceChildren(...tensors.flatMap(([name, value]) => [
      make("h3", {}, name),
      ...([value].flat(Infinity).length > CELLS_EDITED ? [make("p", { className: "dim" }, "Too long to be edited but as JSON.")] : editor(name, inputs, edited)),
    ].filter((one) => one !== null)));
    const set = (option) => (value) => {
      const chosen = (this.#request.options ??= {});
      if (same(value, option.default)) delete chosen[option.name];
      else chosen[option.name] = value;
      if (Object.keys(chosen).length === 0) delete this.#request.options;
      edited();
    };
    if (this.#loss.options.length > 0)
      this.#parts.options.replaceChildren(table([], this.#loss.options.map((option) => [
        code(option.name), control(option, options[option.name] ?? option.default ?? null, set(option)),
        [option.help, make("div", { className: "dim" }, range(option), option.required ? "; required" : ["; default ", code(JSON.stringify(option.default))])],
      ])));
    this.outputs.replaceChildren(table(["name", "", "shape and dtype", ""], this.#loss.outputs.map((output) => [
      code(output.name), this.#choice(output), [output.shape, output.dtype].filter(Boolean).join(" "), output.help + (output.default ? " (by default)" : ""),
    ])));
  }

  /* Is it among the outputs of the reply? By default those of what is sent are. */
  #asked(output) {
    const sent = !output.name.startsWith("grad.") || output.name.slice(5) in (this.#request.inputs ?? {});
    return this.#request.outputs ? this.#request.outputs.includes(output.name) : output.default && sent;
  }

  #choice(output) {
    const box = make("input", { type: "checkbox", checked: this.#asked(output), ariaLabel: `reply with ${output.name}` });
    box.onchange = () => {
      const others = this.#loss.outputs.filter((one) => one !== output && this.#asked(one));
      const names = this.#loss.outputs.filter((one) => others.includes(one) || (one === output && box.checked)).map((one) => one.name);
      delete this.#request.outputs;
      const usual = this.#loss.outputs.filter((one) => this.#asked(one)).map((one) => one.name);
      if (!same(names, usual)) this.#request.outputs = names;
      this.#edited();
    };
    return box;
  }

  /* A grid or a control has changed the request. */
  #edited() {
    this.#parts.body.value = written(this.#request);
    this.changed();
  }

  /* The text was edited: what cannot be read yet stays as it was. */
  #read() {
    try {
      const request = JSON.parse(this.#parts.body.value);
      if (request === null || typeof request !== "object" || Array.isArray(request)) throw new SyntaxError("a request is an object");
      this.#request = request;
    } catch (error) {
      this.#say("bad", error.message);
      return;
    }
    this.#draw();
    this.changed();
  }

  changed() {
    const plain = same(this.#request, this.#loss.example);
    history.replaceState(null, "", `#${this.#loss.name}${plain ? "" : `=${encodeURIComponent(JSON.stringify(this.#request))}`}`);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.send(), WAIT);
  }

  #say(className, text) {
    this.#parts.head.className = className;
    this.#parts.head.textContent = text;
  }

  async send() {
    this.#running?.abort();
    const { signal } = (this.#running = new AbortController());
    const body = JSON.stringify(this.#request);
    const headers = { "Content-Type": "application/json" };
    let reply;
    let got;
    try {
      reply = await ask(`${this.#loss.path.slice(1)}?strict_json=true`, { method: "POST", body, headers, signal });
      got = await reply.json();
    } catch (error) {
      if (!signal.aborted) this.#say("bad", `No reply: ${error.message}`);
      return;
    }
    for (const field of this.element.querySelectorAll("[data-place].wrong")) field.classList.remove("wrong");
    const text = JSON.stringify(got);
    this.#parts.reply.textContent = text.length > 100000 ? `${text.slice(0, 100000)}… (${text.length} characters)` : text;
    if (!reply.ok) {
      const where = `${got.input}${(got.index ?? []).map((i) => `[${i}]`).join("")}`;
      this.element.querySelector(`[data-place="${CSS.escape(where)}"]`)?.classList.add("wrong");
      this.#say("bad", got.detail);
      return;
    }
    const compute = /compute;dur=([\d.]+)/.exec(reply.headers.get("Server-Timing"))?.[1];
    this.#say("dim", compute ? `computed in ${compute} ms` : "");
    this.#parts.picture.replaceChildren(...Object.entries(got.outputs).flatMap(([name, value]) =>
      picture(name, value, name === "loss").filter((one) => one !== null)));
  }

  #curl() {
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const shown = key ? ' -H "Authorization: Bearer $KEY"' : "";
    return `curl -sS${shown} ${quoted(new URL(this.#loss.path.slice(1), document.baseURI).href)} -d ${quoted(JSON.stringify(this.#request))}`;
  }

  async #copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      this.#say("dim", "copied");
    } catch { // pages that did not come over TLS or from this machine have no clipboard
      this.#parts.reply.textContent = text;
    }
  }
}

/* In LaTeX where the loss has it, and all of it is known here; else in plain text. */
function formula(loss) {
  let math;
  try {
    math = loss.tex && typeset(loss.tex);
  } catch (error) {
    console.error(`${loss.name}: ${error.message}`);
  }
  if (!math) return make("pre", {}, loss.formula);
  return make("div", { className: "formula", title: loss.formula, tabIndex: 0, role: "group", ariaLabel: `Formula of ${loss.name}` }, math);
}

const trials = new Map();

function section(loss, request) {
  const trial = new Trial(loss, request);
  trials.set(loss.name, trial);
  return make("section", { id: loss.name },
    make("h2", {}, make("a", { href: `#${loss.name}` }, loss.name)),
    make("p", {}, loss.title, make("span", { className: "dim" }, " — POST "), code(loss.path)),
    formula(loss),
    loss.help ? make("p", {}, loss.help) : null,
    loss.reference ? make("p", { className: "dim" }, `Source: ${loss.reference}`) : null,
    trial.element,
    make("h3", {}, "Inputs"),
    table(["name", "shape and dtype", ""], loss.inputs.map((input) => [
      code(input.name),
      [forms(input), input.required ? "; required" : "", input.range ? `; ${/^([<>]|finite)/.test(input.range) ? "" : "in "}${input.range}` : ""].join(""),
      input.help,
    ])),
    make("h3", {}, "Outputs"), trial.outputs);
}

function others(api) {
  const rows = [];
  for (const [path, verbs] of Object.entries(api.paths))
    for (const [verb, operation] of Object.entries(verbs))
      if (operation.tags[0] !== "losses") rows.push([code(`${verb.toUpperCase()} ${path}`), operation.summary]);
  return make("section", { id: "other-routes" }, make("h2", {}, "Other routes"), table(["route", ""], rows));
}

/* The loss that the address names, and its request; what cannot be read is none. */
function asked() {
  const [, name, text] = /^#([^=]*)=?(.*)$/.exec(location.hash) ?? [];
  try {
    return [decodeURIComponent(name ?? ""), text ? JSON.parse(decodeURIComponent(text)) : undefined];
  } catch {
    return [name];
  }
}

/* What comes into sight is evaluated for the first time. */
const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    trials.get(target.id)?.send();
  }
});

/* What a loss is made from, by which the losses are grouped: the first of these that is said of one of its inputs. And
   the place of the group: what most people come for is first. */
const GROUPS = [
  ["Several losses", 7, (loss) => loss.made_of_parts],
  ["Transforms", 8, (loss) => !loss.path.startsWith("/v1/losses/")],
  ["Student and teacher", 5, takes(/^(student|teacher)_/)],
  ["Hidden states and a head", 2, takes(/^hidden/)],
  ["Preferences and policies", 4, takes(/^(chosen|rejected|reference|ref|policy)_|^(logps|old_logprobs|advantages|values|rewards)$/)],
  ["Logits", 1, takes(/logits$/)],
  ["Embeddings", 3, takes(/^(embeddings?|anchors?|quer(y|ies)|keys?|documents?|images?|texts?|features|positives?|x1)$/)],
  ["Tensors and targets", 6, () => true],
];

function takes(name) {
  return (loss) => loss.inputs.some((input) => input.required && name.test(input.name));
}

function entry(id, title, words) {
  return make("li", { title }, make("a", { href: `#${id}` }, words));
}

/* The names of the groups, in their places, each with its losses. */
function grouped(losses) {
  const left = new Set(losses);
  const groups = GROUPS.map(([name, place, has]) => {
    const own = [...left].filter(has);
    own.forEach((loss) => left.delete(loss));
    return { name, place, own };
  });
  return groups.filter(({ own }) => own.length > 0).sort((a, b) => a.place - b.place);
}

/* The losses by group, and the other routes. */
function contents(groups) {
  const found = (loss) => [loss.name, loss.title, ...loss.inputs.map((one) => one.name), ...loss.options.map((one) => one.name)];
  return [...groups.map(({ name, own }) => make("li", { className: "group" },
    make("span", { className: "dim" }, `${name} (${own.length})`),
    make("ul", {}, own.map((loss) => {
      const item = entry(loss.name, loss.title, loss.name);
      item.dataset.words = found(loss).join(" ").toLowerCase();
      return item;
    })))), entry("other-routes", "", "Other routes")];
}

async function load() {
  const got = await Promise.all([ask("v1/losses"), ask("openapi.json")]);
  const refused = got.find((reply) => !reply.ok);
  if (refused) throw new Error((await refused.json()).detail);
  const [{ losses }, api] = await Promise.all(got.map((reply) => reply.json()));
  const [name, request] = asked();
  at("version").textContent = api.info.version;
  const groups = grouped(losses);
  const sections = groups.flatMap(({ own }) => own.map((loss) => section(loss, loss.name === name ? request : undefined)));
  at("losses").replaceChildren(...sections, others(api));
  at("contents").replaceChildren(...contents(groups));
  at(name)?.scrollIntoView();
  for (const one of at("losses").children) sight.observe(one);
}

window.onhashchange = () => {
  const [name, request] = asked();
  if (request) trials.get(name)?.begin(request);
  at(name)?.scrollIntoView();
};
/* All words must be found, in a loss's name, title, inputs or options. */
at("filter").oninput = () => {
  const wanted = at("filter").value.trim().toLowerCase().split(/\s+/);
  for (const item of at("contents").querySelectorAll("[data-words]"))
    item.hidden = !wanted.every((word) => item.dataset.words.includes(word));
  for (const group of at("contents").querySelectorAll(".group"))
    group.hidden = !group.querySelector("[data-words]:not([hidden])");
};
withKey(load);
