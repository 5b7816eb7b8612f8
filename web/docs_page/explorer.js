// The contract as a page: every operation with its parameters, bodies and answers, and a request to try.
// No library, nothing from elsewhere, no inline script or style: the page's policy allows neither.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
let contract;

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function resolved(value) {
  if (!value || !value.$ref) return value || {};
  const found = value.$ref.slice(2).split("/").reduce((place, step) => place[step], contract);
  const { $ref, ...own } = value;
  return { ...found, ...own };
}

// An example of a schema: what it says itself, else one made of its parts.
function exampleOf(schema, depth = 0) {
  const one = resolved(schema);
  if (one.example !== undefined) return one.example;
  if (one.examples) return one.examples[0];
  if (one.const !== undefined) return one.const;
  if (one.enum) return one.enum[0];
  if (one.default !== undefined) return one.default;
  if (one.allOf) return Object.assign({}, ...one.allOf.map((part) => exampleOf(part, depth + 1)));
  const type = Array.isArray(one.type) ? one.type[0] : one.type;
  if (depth > 6) return null;
  if (type === "object" || one.properties) {
    return Object.fromEntries(Object.entries(one.properties || {}).map(([name, part]) => [name, exampleOf(part, depth + 1)]));
  }
  if (type === "array") return [exampleOf(one.items, depth + 1)];
  return { integer: 0, number: 0, boolean: false, null: null }[type] ?? (one.format === "date-time" ? "2026-11-20T10:00:00Z" : "");
}

function typeOf(schema) {
  const one = resolved(schema);
  const parts = [[].concat(one.type || "any").join(" or ")];
  if (one.enum) parts.push(one.enum.join(" | "));
  if (one.pattern) parts.push(one.pattern);
  if (one.minimum !== undefined) parts.push(`from ${one.minimum}`);
  if (one.maximum !== undefined) parts.push(`to ${one.maximum}`);
  return parts.join(", ");
}

function tableOf(head, rows) {
  return make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((cell) => make("th", {}, cell)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))));
}

function fieldsOf(schema) {
  const one = resolved(schema);
  const required = new Set(one.required || []);
  return tableOf(["field", "required", "type", "meaning"], Object.entries(one.properties || {}).map(([name, part]) =>
    [make("code", {}, name), required.has(name) ? "yes" : "", make("code", {}, typeOf(part)), resolved(part).description || ""]));
}

function contentOf(holder) {
  const [type, content] = Object.entries((holder && holder.content) || {})[0] || ["", null];
  return { type, content };
}

function bodyExample(content) {
  const named = content.examples && Object.values(content.examples)[0];
  const example = content.example ?? (named && named.value) ?? exampleOf(content.schema);
  return typeof example === "string" ? example : JSON.stringify(example, null, 2);
}

function detailsOf(path, method, operation, parameters) {
  const box = make("div", {});
  if (operation.description) box.append(make("p", {}, operation.description));
  const facts = [`operation ${operation.operationId}`, `permission ${operation["x-permission"]}`];
  if (operation["x-alias-of"]) facts.push(`alias of ${operation["x-alias-of"]}`);
  box.append(make("p", { class: "muted" }, facts.join(" · ")));
  if (parameters.length) {
    box.append(make("h3", {}, "Parameters"), tableOf(["name", "in", "required", "type", "meaning"], parameters.map((one) =>
      [make("code", {}, one.name), one.in, one.required ? "yes" : "", make("code", {}, typeOf(one.schema)), one.description || ""])));
  }
  const body = contentOf(operation.requestBody);
  if (body.content) box.append(make("h3", {}, `Body (${body.type})`), fieldsOf(body.content.schema));
  box.append(make("h3", {}, "Answers"), tableOf(["status", "meaning", "body"], Object.entries(operation.responses).map(([code, one]) => {
    const answer = resolved(one), { type, content } = contentOf(answer);
    const shape = content && content.schema.$ref ? content.schema.$ref.split("/").pop() : type;
    return [code, answer.description, make("code", {}, shape)];
  })));
  for (const [code, one] of Object.entries(operation.responses)) {
    const { type, content } = contentOf(resolved(one));
    if (code < "300" && type === "application/json") box.append(make("h3", {}, `${code}, for example`), make("pre", {}, bodyExample(content)));
  }
  box.append(...tryOf(path, method, operation, parameters, body));
  return box;
}

function tryOf(path, method, operation, parameters, body) {
  const fields = parameters.filter((one) => one.name !== "X-Request-Id").map((one) => {
    const isKey = one.name === "Idempotency-Key";
    const value = isKey ? crypto.randomUUID() : one.in === "path" ? one.example ?? exampleOf(one.schema) : "";
    return { ...one, input: make("input", { value, "aria-label": one.name, "data-name": one.name }) };
  });
  const text = body.content ? make("textarea", { "aria-label": "body", spellcheck: "false" }) : null;
  if (text) text.value = bodyExample(body.content);
  const answer = make("pre", { hidden: "" });
  const send = async (event) => {
    event.preventDefault();
    let url = path;
    const query = new URLSearchParams(), headers = {};
    for (const one of fields) {
      if (one.in === "path") url = url.replace(`{${one.name}}`, encodeURIComponent(one.input.value));
      else if (one.input.value && one.in === "query") query.append(one.name, one.input.value);
      else if (one.input.value) headers[one.name] = one.input.value;
    }
    const token = document.getElementById("token").value;
    if (token) headers.Authorization = `Bearer ${token}`;
    if (text && text.value) headers["Content-Type"] = body.type;
    answer.hidden = false;
    answer.textContent = "...";
    try {
      const response = await fetch(query.size ? `${url}?${query}` : url, { method: method.toUpperCase(), headers, body: text && text.value ? text.value : undefined });
      const raw = await response.text();
      let shown = raw;
      try { shown = JSON.stringify(JSON.parse(raw), null, 2); } catch { /* not JSON: shown as it is */ }
      answer.textContent = `${response.status} ${response.statusText}\n\n${shown}`;
    } catch (error) {
      answer.textContent = String(error);
    }
  };
  return [make("h3", {}, "Try it"), make("form", { onsubmit: send },
    ...fields.map((one) => make("label", {}, `${one.name} (${one.in})`, one.input)), text, make("button", { type: "submit" }, "Send")), answer];
}

function show(filter) {
  const groups = new Map(contract.tags.map((tag) => [tag.name, { tag, rows: [] }]));
  for (const [path, item] of Object.entries(contract.paths)) {
    for (const method of METHODS.filter((one) => item[one])) {
      const operation = item[method];
      const words = `${method} ${path} ${operation.operationId} ${operation.summary} ${operation.description || ""}`.toLowerCase();
      if (!words.includes(filter)) continue;
      const parameters = [...(item.parameters || []), ...(operation.parameters || [])].map(resolved);
      const row = make("details", { id: operation.operationId, class: "operation" }, make("summary", {},
        make("span", { class: `method ${method}` }, method.toUpperCase()), make("code", {}, path), ` ${operation.summary}`));
      row.addEventListener("toggle", () => {
        if (row.open && row.children.length === 1) row.append(detailsOf(path, method, operation, parameters));
      });
      groups.get(operation.tags[0]).rows.push(row);
    }
  }
  const shown = [...groups.values()].filter((group) => group.rows.length);
  document.getElementById("tags").replaceChildren(...shown.map(({ tag }) => make("a", { href: `#tag-${tag.name}` }, tag.name)));
  document.getElementById("operations").replaceChildren(...shown.flatMap(({ tag, rows }) =>
    [make("h2", { id: `tag-${tag.name}` }, tag.name), make("p", { class: "muted" }, tag.description || ""), ...rows]));
  if (!shown.length) document.getElementById("operations").append(make("p", {}, "Nothing matches."));
}

async function start() {
  document.getElementById("login").addEventListener("submit", (event) => event.preventDefault());
  try {
    contract = await (await fetch("/openapi.json")).json();
  } catch (error) {
    document.getElementById("operations").textContent = `The contract cannot be read: ${error}`;
    return;
  }
  document.getElementById("summary").textContent = `${contract.info.summary} Version ${contract.info.version}.`;
  document.getElementById("search").addEventListener("input", (event) => show(event.target.value.trim().toLowerCase()));
  show("");
  const wanted = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (wanted) { wanted.open = true; wanted.scrollIntoView(); }
}

start();
