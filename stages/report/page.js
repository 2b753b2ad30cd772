"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("matrix-data").textContent);

// Theme: the system's, until the button is pressed.
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// Tables: a button in every heading sorts by its column.
const number = (text) => {
  const value = parseFloat(text.replace(/[,%\s]/g, ""));
  return Number.isNaN(value) ? -Infinity : value;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (heading.querySelector(".hidden")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const numeric = heading.classList.contains("n");
      const before = heading.getAttribute("aria-sort");
      const ascending = before ? before === "descending" : !numeric;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      const text = (row) => row.cells[column].textContent;
      rows.sort((a, b) => {
        const order = numeric
          ? number(text(a)) - number(text(b))
          : text(a).localeCompare(text(b), "en", { numeric: true });
        return ascending ? order : -order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// Gallery of mistakes, filtered by actual and predicted class.
const gallery = $("gallery");
function show(actual, predicted) {
  if (!gallery) return 0;
  $("gallery-actual").value = actual;
  $("gallery-predicted").value = predicted;
  return filter();
}
function filter() {
  const actual = $("gallery-actual").value;
  const predicted = $("gallery-predicted").value;
  let shown = 0;
  for (const item of gallery.children) {
    item.hidden =
      (actual !== "" && item.dataset.actual !== actual) ||
      (predicted !== "" && item.dataset.predicted !== predicted);
    shown += !item.hidden;
  }
  const status = $("gallery-status");
  let inAll = 0;
  for (const [i, j, n] of data.wrong) {
    if ((actual === "" || +actual === i) && (predicted === "" || +predicted === j)) inAll += n;
  }
  status.textContent =
    `${shown.toLocaleString("en")} of ${inAll.toLocaleString("en")} ` +
    `${inAll === 1 ? "mistake" : "mistakes"}` +
    (actual === "" ? "" : `, actual ${data.names[actual]}`) +
    (predicted === "" ? "" : `, predicted ${data.names[predicted]}`) +
    ", most confident first.";
  return shown;
}
if (gallery) {
  for (const side of ["actual", "predicted"]) {
    const select = $(`gallery-${side}`);
    const present = [...new Set([...gallery.children].map((item) => +item.dataset[side]))];
    for (const k of present.sort((a, b) => a - b)) select.add(new Option(data.names[k], k));
    select.addEventListener("change", filter);
  }
  $("gallery-reset").addEventListener("click", () => show("", ""));
}
function jump(actual, predicted) {
  if (!show(String(actual), String(predicted))) return;
  $("mistakes").scrollIntoView();
  $("gallery-actual").focus({ preventScroll: true });
}
for (const button of document.querySelectorAll("button.show")) {
  button.addEventListener("click", () => jump(button.dataset.actual, button.dataset.predicted));
}

// Confusion matrix.
const size = data.classes.length;
const counts = new Map(data.cells.map(([i, j, n]) => [i * size + j, n]));
const count = (i, j) => counts.get(i * size + j) || 0;
const name = (i) => data.names[data.classes[i]];
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function orders() {
  const listed = [...Array(size).keys()];
  const by = (value) => [...listed].sort((a, b) => value(a) - value(b) || a - b);
  switch ($("matrix-order").value) {
    case "f1":
      return by((i) => data.f1[i]);
    case "size":
      return by((i) => -data.actual[i]);
    case "similar":
      return similar();
    default:
      return listed;
  }
}
// From the class with most errors on, always next to the end of the row goes the class that
// is confused with it most.
function similar() {
  const between = (i, j) => count(i, j) + count(j, i);
  const left = new Set(Array(size).keys());
  const errors = (i) => data.actual[i] + data.predicted[i] - 2 * count(i, i);
  const best = (value) => {
    let found = null;
    for (const i of left) if (found === null || value(i) > value(found)) found = i;
    return found;
  };
  const row = [];
  while (left.size) {
    const last = row.at(-1);
    let next = row.length ? best((i) => between(last, i)) : best(errors);
    if (row.length && !between(last, next)) next = best(errors);
    left.delete(next);
    row.push(next);
  }
  return row;
}

function draw() {
  const order = orders();
  const of = $("matrix-of").value;
  const largest = Math.max(1, ...counts.values());
  const numbers = size <= 20;
  const table = document.createElement("table");
  const cell = size <= 12 ? 46 : size <= 20 ? 38 : size <= 40 ? 20 : size <= 70 ? 13 : 9;
  table.style.setProperty("--cell", `${cell}px`);
  table.style.setProperty("--label", `${Math.min(13, Math.max(9, cell - 1))}px`);
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", "Confusion matrix, rows are actual, columns are predicted");
  const head = table.createTHead().insertRow();
  head.insertCell().textContent = "actual ↓ predicted →";
  for (const j of order) {
    const th = document.createElement("th");
    th.scope = "col";
    th.textContent = th.title = name(j);
    head.append(th);
  }
  const body = table.createTBody();
  for (const i of order) {
    const row = body.insertRow();
    const th = document.createElement("th");
    th.scope = "row";
    th.textContent = th.title = name(i);
    row.append(th);
    for (const j of order) {
      const n = count(i, j);
      const share = n / Math.max(1, of === "predicted" ? data.predicted[j] : data.actual[i]);
      const value = of === "count" ? n / largest : share;
      const td = row.insertCell();
      td.tabIndex = -1;
      td.dataset.i = i;
      td.dataset.j = j;
      // The root makes rare errors visible beside frequent ones.
      td.style.setProperty("--v", Math.sqrt(value).toFixed(3));
      if (i === j) td.className = "same";
      if (value > 0.3) td.classList.add("on");
      if (numbers && n) td.textContent = of === "count" ? n : (100 * share).toFixed(1);
      td.setAttribute("aria-label", describe(i, j));
    }
  }
  body.rows[0].cells[1].tabIndex = 0;
  $("matrix").replaceChildren(table);
}
function describe(i, j) {
  const n = count(i, j);
  const what = i === j ? `${name(i)}, predicted right` : `actual ${name(i)}, predicted ${name(j)}`;
  return (
    `${what}: ${n.toLocaleString("en")} of ${data.actual[i].toLocaleString("en")} images, ` +
    `${percent(n / Math.max(1, data.actual[i]))} of the actual class, ` +
    `${percent(n / Math.max(1, data.predicted[j]))} of the predicted class`
  );
}
const matrix = $("matrix");
const cellAt = (event) => event.target.closest("td[data-i]");
const read = (event) => {
  const td = cellAt(event);
  if (td) $("matrix-readout").textContent = describe(+td.dataset.i, +td.dataset.j);
};
const open = (td) => {
  if (td.dataset.i !== td.dataset.j && count(+td.dataset.i, +td.dataset.j)) {
    jump(data.classes[td.dataset.i], data.classes[td.dataset.j]);
  }
};
matrix.addEventListener("mouseover", read);
matrix.addEventListener("focusin", read);
matrix.addEventListener("click", (event) => {
  const td = cellAt(event);
  if (td) open(td);
});
matrix.addEventListener("keydown", (event) => {
  const td = cellAt(event);
  if (!td) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    open(td);
    return;
  }
  const rows = td.closest("tbody").rows;
  const row = td.parentElement.sectionRowIndex;
  const column = td.cellIndex;
  const to = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    Home: [row, 1],
    End: [row, size],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  const next = rows[to[0]]?.cells[to[1]];
  if (!next || to[1] < 1) return;
  td.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
for (const id of ["matrix-order", "matrix-of"]) $(id).addEventListener("change", draw);
if (size < data.names.length) {
  $("matrix-note").textContent =
    `The ${size} of ${data.names.length} classes with most mistakes are shown.`;
}
draw();
