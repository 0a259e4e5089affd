"use strict";
/* What the pages share. */

const at = (id) => document.getElementById(id);
let key = ""; // kept in this page only

/* An element with attributes and children; a string becomes a text node, whatever it holds. */
function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null));
  return element;
}

const code = (text) => make("code", {}, text);

/* The reply of the service, which may want a key for it. */
async function ask(path, options = {}) {
  const reply = await fetch(path, { ...options, headers: { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) } });
  if (reply.status === 401 || reply.status === 403) at("keyed").hidden = false;
  return reply;
}

/* Runs `show` now, and again with each key that is given. */
function withKey(show) {
  const run = async () => {
    at("said").className = "dim";
    at("said").textContent = "";
    at("keyed").hidden = true;
    try {
      await show();
    } catch (error) {
      at("said").className = "bad";
      at("said").textContent = error.message;
    }
  };
  at("keyed").onsubmit = (event) => {
    event.preventDefault();
    key = at("key").value.trim();
    run();
  };
  run();
}

/* A table with heads; rows are arrays of what stands in their cells, the first of which names the row. */
function table(heads, rows, className = "list stacked") {
  const head = (text) => (text ? make("th", { scope: "col" }, text) : make("td", {}));
  const row = ([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, first), rest.map((cell) => make("td", {}, cell)));
  return make("table", { className }, make("thead", {}, make("tr", {}, heads.map(head))), make("tbody", {}, rows.map(row)));
}
