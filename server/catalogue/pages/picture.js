/* Tensors as pictures: a number, a strip, a heat map; and as grids that can be edited. */

const COLUMNS_SHOWN = 64;
const ROWS_SHOWN = 32;
const SLICES_SHOWN = 8;
const COLUMNS_READ = 12; // more are told by their colours, and by what is pointed at

/* Nested arrays as matrices: [{ at: "[0]", rows }], a vector as one of one row. */
function slices(value, where = "") {
  if (!Array.isArray(value)) return [{ where, rows: [[value]], rank: 0 }];
  if (!Array.isArray(value[0])) return [{ where, rows: [value], rank: 1 }];
  if (!Array.isArray(value[0][0])) return [{ where, rows: value, rank: 2 }];
  return value.flatMap((inner, i) => slices(inner, `${where}[${i}]`));
}

const place = (slice, r, c) => `${slice.where}${slice.rank > 1 ? `[${r}]` : ""}${slice.rank > 0 ? `[${c}]` : ""}`;

const brief = (x) => (x === null ? "not finite" : typeof x !== "number" ? String(x) : Number.isInteger(x) ? String(x) : String(Number(x.toPrecision(3))));

/* A grid of cells that `cell(value, slice, row, column)` makes. */
function grid(name, value, cell, className = "") {
  const all = slices(value);
  const cut = all.length > SLICES_SHOWN || all.some(({ rows }) => rows.length > ROWS_SHOWN || rows.some((row) => row.length > COLUMNS_SHOWN));
  return [
    ...all.slice(0, SLICES_SHOWN).map((slice) =>
      make("div", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: name + slice.where },
        slice.where ? make("span", { className: "dim" }, slice.where) : null,
        make("table", { className: `grid ${className}`, ariaLabel: name + slice.where },
          make("tbody", {}, slice.rows.slice(0, ROWS_SHOWN).map((row, r) =>
            make("tr", {}, row.slice(0, COLUMNS_SHOWN).map((one, c) => cell(one, slice, r, c)))))))),
    cut ? make("p", { className: "dim" }, "Its beginning; the reply below has all of it.") : null,
  ];
}

/* A tensor of a reply. Colours: blue above 0, orange below, the stronger the farther from it. */
function picture(name, value, isLoss) {
  if (!Array.isArray(value)) return [make("h3", {}, name), make("p", { className: isLoss ? "loss" : "number" }, value === null ? "not finite" : String(value))];
  const numbers = value.flat(Infinity);
  const most = numbers.reduce((m, x) => Math.max(m, Math.abs(x ?? 0)), 0);
  const real = numbers.some((x) => typeof x === "number" && !Number.isInteger(x));
  const tiny = slices(value).some(({ rows }) => rows.some((row) => row.length > COLUMNS_READ));
  const pointed = make("p", { className: "number dim" }, numbers.length ? "\u00a0" : "no elements");
  const cell = (x, slice, r, c) => {
    const text = `${name}${place(slice, r, c)} = ${x === null ? "not finite" : x}`;
    const made = make("td", { title: text, className: x === null ? "none" : "" }, brief(x));
    if (real && x) made.style.background = `rgb(var(--${x > 0 ? "plus" : "minus"}) / ${(0.06 + 0.44 * Math.abs(x) / most).toFixed(3)})`;
    made.onpointerenter = () => (pointed.textContent = text);
    return made;
  };
  return [make("h3", {}, name), ...grid(name, value, cell, tiny ? "tiny" : ""), pointed];
}

/* The tensor inputs[name], whose cells are edited; `change` is called after one was. Arrows up and down, and Enter, go
 * to the cells of the same column. */
function editor(name, inputs, change) {
  const set = (slice, r, c, x) => {
    if (slice.rank === 0) inputs[name] = x;
    else slice.rows[r][c] = x;
    change();
  };
  const cell = (x, slice, r, c) => {
    const ariaLabel = name + place(slice, r, c);
    if (typeof x === "boolean") {
      const box = make("input", { type: "checkbox", checked: x, ariaLabel });
      box.onchange = () => set(slice, r, c, box.checked);
      return make("td", {}, box);
    }
    const field = make("input", { value: String(x), inputMode: "decimal", autocomplete: "off", ariaLabel });
    field.dataset.place = ariaLabel;
    field.oninput = () => {
      const number = Number(field.value);
      const valid = field.value.trim() !== "" && Number.isFinite(number);
      field.classList.toggle("wrong", !valid);
      if (valid) set(slice, r, c, number);
    };
    field.onkeydown = (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1, Enter: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = field.closest("tbody").rows[r + step]?.cells[c]?.firstElementChild;
      next?.focus();
      next?.select?.();
    };
    return make("td", {}, field);
  };
  return grid(name, inputs[name], cell);
}
