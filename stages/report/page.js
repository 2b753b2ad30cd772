"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("page-data").textContent);
const { matrix: confusion, images } = data;
const [pictureStart, ...pictures] = $("pictures").textContent.trim().split(" ");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const count = (n) => n.toLocaleString("en");
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// Theme: the system's, until the button is pressed.
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  drawMap();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawMap());

// A box that holds more than it shows says so.
for (const box of document.querySelectorAll(".scroll")) {
  const hint = make("p", { className: "hint", hidden: true });
  box.after(hint);
  const look = () => {
    const right = box.scrollWidth - box.clientWidth - box.scrollLeft > 2;
    const below = box.scrollHeight - box.clientHeight - box.scrollTop > 2;
    box.classList.toggle("more-right", right);
    hint.hidden =
      box.scrollWidth <= box.clientWidth + 2 && box.scrollHeight <= box.clientHeight + 2;
    hint.textContent = `${right ? "More to the right →" : ""} ${below ? "More below ↓" : ""}`;
  };
  box.addEventListener("scroll", look, { passive: true });
  const watch = new ResizeObserver(look);
  watch.observe(box);
  if (box.id !== "matrix") watch.observe(box.firstElementChild);
  box.addEventListener("redrawn", look);
}

// Tables: a button in every heading sorts by its column.
const number = (text) => {
  const value = parseFloat(text.replace(/[,%\s]/g, ""));
  return Number.isNaN(value) ? -Infinity : value;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (heading.querySelector(".hidden")) return;
    const button = make("button", { type: "button" }, ...heading.childNodes);
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

// The browser of images: filters, tiles, and one image enlarged.
const listed = images.path.length;
const judged = (n) =>
  images.predicted[n] < 0 ? "none" : images.predicted[n] === images.label[n] ? "right" : "wrong";
const issuesOf = new Map(); // by image: [kind, other image or -1, note]
images.issues.forEach(({ lines }, kind) => {
  for (const [n, other, note] of lines) {
    for (const [one, two] of other < 0
      ? [[n, -1]]
      : [
          [n, other],
          [other, n],
        ]) {
      if (!issuesOf.has(one)) issuesOf.set(one, []);
      issuesOf.get(one).push([kind, two, note]);
    }
  }
});
const suspects = new Map(images.suspects.map(([n, ...rest]) => [n, rest]));
const unlike = new Set(images.unlike);
const choices = new Map(); // by image, what a person says of it: a class, its own too, or REMOVE
const source = (n) => `data:image/jpeg;base64,${pictureStart}${pictures[n]}`;
const picture = (n) =>
  n < pictures.length
    ? make("img", { src: source(n), alt: "" })
    : make("span", { className: "unpictured", textContent: "not pictured" });
const label = (n) => data.names[images.label[n]];
function caption(n) {
  const parts = [make("span", { className: "is", textContent: label(n) })];
  if (judged(n) === "wrong") {
    parts.push(make("span", { className: "not", textContent: data.names[images.predicted[n]] }));
  }
  let sure = images.sides[images.side[n]];
  if (judged(n) !== "none") sure += `, ${percent(images.confidence[n] / 1000)} sure`;
  for (const kind of new Set(issuesOf.get(n)?.map(([k]) => k)))
    sure += `, ${images.issues[kind].name}`;
  if (suspects.has(n)) sure += ", suspect";
  parts.push(make("span", { className: "sure", textContent: sure }));
  if (choices.has(n)) parts.push(make("span", { className: "choice", textContent: said(n) }));
  parts.push(make("span", { className: "path", textContent: images.path[n] }));
  return parts;
}
const tile = (n) => {
  const button = make("button", { type: "button", className: "tile" }, picture(n), ...caption(n));
  button.dataset.n = n;
  return button;
};

const filters = $("filters").elements;
const browser = $("browser");
let found = []; // images that pass the filters, in the order chosen
let shown = 0; // how many of them have a tile
let picked = null; // images inside the rectangle on the map
let byPath = null; // place of every image when sorted by path, made when needed

const option = (select, values, name) => {
  for (const value of [...new Set(values)].sort((a, b) => a - b)) {
    if (value >= 0) filters[select].add(new Option(name(value), value));
  }
};
option("label", images.label, (k) => data.names[k]);
option("predicted", images.predicted, (k) => data.names[k]);
option("side", images.side, (k) => images.sides[k]);
option("issue", images.issues.keys(), (k) => images.issues[k].name);

function search() {
  const wanted = Object.fromEntries(new FormData($("filters")));
  const is = (name, value) => wanted[name] === "" || wanted[name] === String(value);
  const text = wanted.path.toLowerCase();
  found = [];
  for (let n = 0; n < listed; n++) {
    if (
      is("label", images.label[n]) &&
      is("predicted", images.predicted[n]) &&
      is("side", images.side[n]) &&
      is("judged", judged(n)) &&
      (wanted.issue === "" || issuesOf.get(n)?.some(([kind]) => is("issue", kind))) &&
      (wanted.mark === "" || (wanted.mark === "suspect" ? suspects : choices).has(n)) &&
      (!picked || picked.has(n)) &&
      (text === "" || images.path[n].toLowerCase().includes(text))
    ) {
      found.push(n);
    }
  }
  if (!byPath) {
    const order = [...Array(listed).keys()];
    order.sort((a, b) => (images.path[a] < images.path[b] ? -1 : 1));
    byPath = new Int32Array(listed);
    order.forEach((n, place) => (byPath[n] = place));
  }
  const sure = images.confidence;
  found.sort((a, b) => {
    let ahead = 0; // those not judged come last
    if (wanted.order === "surest") ahead = sure[b] - sure[a];
    else if (wanted.order === "unsure")
      ahead = ((sure[a] + 1001) % 1001) - ((sure[b] + 1001) % 1001);
    return ahead || byPath[a] - byPath[b];
  });
  browser.replaceChildren();
  shown = 0;
  const columns = getComputedStyle(browser).gridTemplateColumns.split(" ").length;
  showMore(Math.max(12, 4 * columns));
  drawMap();
}
function showMore(wanted) {
  const until = Math.min(found.length, shown + wanted);
  for (; shown < until; shown++) browser.append(make("li", {}, tile(found[shown])));
  $("more").hidden = shown === found.length;
  let text = `${count(found.length)} ${found.length === 1 ? "image" : "images"} found`;
  if (shown < found.length) text += `, the first ${count(shown)} shown`;
  if (picked) text += "; only those in the rectangle on the map";
  text += ".";
  if (listed < images.total) {
    text += ` A fair sample of ${count(listed)} of all ${count(images.total)} images is listed.`;
  }
  if (pictures.length < listed) {
    text += ` ${count(pictures.length)} of ${count(listed)} are pictured (plot.page_megabytes).`;
  }
  $("found").textContent = text;
}
function reset() {
  $("filters").reset();
  picked = corners = null;
}
/** Set the filters, those not named to "any", and go to the images. */
function show(wanted) {
  reset();
  for (const [name, value] of Object.entries(wanted)) filters[name].value = value;
  search();
  $("images").scrollIntoView();
  browser.querySelector("button")?.focus({ preventScroll: true });
}
for (const select of $("filters").querySelectorAll("select"))
  select.addEventListener("change", search);
filters.path.addEventListener("input", search);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("everything").addEventListener("click", () => {
  reset();
  search();
});
$("more").addEventListener("click", () => {
  const first = shown;
  showMore(300);
  browser.children[first]?.querySelector("button").focus();
});
for (const button of document.querySelectorAll("button.show")) {
  const { actual, predicted } = button.dataset;
  button.addEventListener("click", () => show({ label: actual, predicted }));
}

// Where a key leads from the place `at` of a grid of `count` in so many `columns`.
function placeByKey(event, at, count, columns) {
  const to = {
    ArrowLeft: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at - columns,
    ArrowDown: at + columns,
    Home: 0,
    End: count - 1,
  }[event.key];
  if (to !== undefined) event.preventDefault();
  return to;
}

// Arrow keys move between tiles; a click or Enter enlarges.
for (const list of document.querySelectorAll(".gallery")) {
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button.tile");
    if (button) enlarge(+button.dataset.n, list === browser ? found : null, button);
  });
  list.addEventListener("keydown", (event) => {
    const tiles = [...list.querySelectorAll("button.tile")];
    const at = tiles.indexOf(event.target);
    if (at < 0) return;
    const top = tiles[0].getBoundingClientRect().top;
    const below = tiles.findIndex((other) => other.getBoundingClientRect().top > top + 4);
    const columns = below < 0 ? tiles.length : below;
    tiles[placeByKey(event, at, tiles.length, columns)]?.focus();
  });
}

const viewer = $("viewer");
let row = []; // the images that the arrow keys go through
let place = 0;
let from = null; // where the focus returns
function enlarge(n, among, button) {
  row = among ?? [...button.closest("ul").querySelectorAll(".tile")].map((one) => +one.dataset.n);
  place = row.indexOf(n);
  from = button;
  view(n);
  viewer.showModal();
}
function view(n) {
  const pictured = n < pictures.length;
  $("viewer-picture").hidden = !pictured;
  if (pictured) $("viewer-picture").src = source(n);
  $("viewer-picture").alt = label(n);
  $("viewer-path").textContent = images.path[n];
  $("viewer-place").textContent = place < 0 ? "" : `${count(place + 1)} of ${count(row.length)}`;
  const facts = $("viewer-facts");
  facts.replaceChildren();
  const fact = (name, ...value) =>
    facts.append(make("div", {}, make("dt", {}, name), make("dd", {}, ...value)));
  fact("Class", label(n));
  fact("Side", images.sides[images.side[n]]);
  if (judged(n) === "none") fact("Prediction", "not judged");
  else {
    fact(
      "Prediction",
      `${data.names[images.predicted[n]]}, ${percent(images.confidence[n] / 1000)} sure`,
    );
    if (judged(n) === "wrong") fact("For its class", percent(images.of_actual[n] / 1000));
  }
  if (images.set_size[n] > 0) {
    const names = images.set[n].map((k) => data.names[k]);
    const more = images.set_size[n] - names.length;
    fact("Prediction set", names.join(" or ") + (more ? ` and ${count(more)} more` : ""));
  }
  if (unlike.has(n)) fact("Unlike", "the training images");
  const partner = (other) => {
    const button = make(
      "button",
      { type: "button" },
      picture(other),
      `${label(other)}, ${images.sides[images.side[other]]}: ${images.path[other]}`,
    );
    button.addEventListener("click", () => {
      place = row.indexOf(other);
      view(other);
    });
    return button;
  };
  const suspect = suspects.get(n);
  if (suspect) {
    const [suggested, score, ...near] = suspect;
    fact("Suspect", `given ${label(n)}, suggested ${data.names[suggested]}, score ${score}`);
    for (const other of near) if (other >= 0) fact(`Nearest ${label(other)}`, partner(other));
  }
  for (const [kind, other, note] of issuesOf.get(n) ?? []) {
    fact(images.issues[kind].name, note, ...(other >= 0 ? [partner(other)] : []));
  }
  $("viewer-decide").replaceChildren(controls(n));
}
function step(by) {
  const next = row[place + by];
  if (next === undefined) return;
  place += by;
  view(next);
}
viewer.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT" || decideByKey(event, $("viewer-decide"))) return;
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
});
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("close", () => {
  const home = from.closest("#browser, #cards");
  (home?.querySelector(`[data-n="${row[place]}"]`) ?? from).focus();
});
$("viewer-before").addEventListener("click", () => step(-1));
$("viewer-after").addEventListener("click", () => step(1));
$("viewer-close").addEventListener("click", () => viewer.close());

// Corrections: what a person says of labels, saved as the table that the pipeline reads.
const REMOVE = "-";
const table = data.corrections;
const column = Object.fromEntries(table.columns.map((name, at) => [name, at]));
const lineOf = new Map(table.lines.map((line) => [line[column.id].trim(), line]));
const NEW = "new:"; // before a class that only the table makes
const bare = (written) =>
  written
    .trim()
    .replace(/^new:\s*/, "")
    .normalize("NFC");
const made = new Set(
  table.lines
    .map((line) => line[column.label])
    .filter((text) => text.trim().startsWith(NEW))
    .map(bare),
);
const CHECKED = "checked"; // the note of a label that a person has kept
const lineFor = (n) => {
  const line = lineOf.get(images.id[n]);
  return line && bare(line[column.label]) === label(n) ? line : undefined;
};
const checked = (n) => lineFor(n)?.[column.note] === CHECKED;
// What nobody has kept comes first.
images.suspects.sort(([a], [b]) => checked(a) - checked(b));
function said(n) {
  const choice = choices.get(n);
  if (choice === undefined)
    return checked(n) ? "kept before" : lineFor(n) ? "corrected before" : "";
  if (choice === REMOVE) return "removed";
  return choice === label(n) ? `${choice} kept` : `${label(n)} becomes ${choice}`;
}

// Choices outlive a reload where the browser keeps anything for this page, which not all do for files.
const STORE = `corrections of the labels, model ${data.sha256}`;
let remembers = true;
function remember() {
  try {
    const stored = [...choices].map(([n, choice]) => [images.id[n], [label(n), choice]]);
    localStorage.setItem(STORE, JSON.stringify(stored));
  } catch {
    remembers = false;
  }
}
function recall() {
  try {
    const stored = new Map(JSON.parse(localStorage.getItem(STORE) ?? "[]"));
    const classes = new Set([...data.names, REMOVE]);
    images.id.forEach((id, n) => {
      const [given, choice] = stored.get(id) ?? [];
      if (given !== label(n)) return; // it was applied
      if (classes.has(choice) && !(choice === label(n) && checked(n))) choices.set(n, choice);
    });
  } catch {
    remembers = false;
  }
}

/** Buttons and a select for the label of an image. */
function controls(n) {
  const button = (name, textContent) => {
    const made = make("button", { type: "button", textContent });
    made.dataset.decide = name;
    return made;
  };
  const select = make("select", { ariaLabel: "Right class" });
  const suggested = suspects.has(n)
    ? suspects.get(n)[0]
    : judged(n) === "wrong"
      ? images.predicted[n]
      : -1;
  if (suggested < 0) select.add(new Option("class …", ""));
  data.names.forEach((name) => select.add(new Option(name, name)));
  if (suggested >= 0) select.value = data.names[suggested];
  const box = make(
    "div",
    { className: "decide" },
    button("keep", "Keep"),
    button("relabel", "Relabel to"),
    select,
    button("remove", "Remove"),
    make("span", { className: "choice", role: "status" }),
  );
  box.dataset.n = n;
  box.addEventListener("click", ({ target: { dataset } }) => {
    if (dataset.decide) press(box, dataset.decide);
  });
  select.addEventListener("change", () => select.value && decide(n, select.value));
  mark(box);
  return box;
}
function press(box, name) {
  const n = +box.dataset.n;
  const select = box.querySelector("select");
  const choice = { keep: label(n), relabel: select.value, remove: REMOVE }[name];
  if (choice === "") select.focus();
  else decide(n, choices.get(n) === choice ? undefined : choice);
}
/** Do what the key of an event asks for, by the controls inside `where`; whether it was one. */
function decideByKey(event, where) {
  const name = { k: "keep", r: "relabel", x: "remove" }[event.key];
  if (!name || event.ctrlKey || event.metaKey || event.altKey) return false;
  event.preventDefault();
  press(where.querySelector(".decide"), name);
  return true;
}
function decide(n, choice) {
  if (choice === undefined) choices.delete(n);
  else choices.set(n, choice);
  remember();
  redraw([n]);
}
function mark(box) {
  const n = +box.dataset.n;
  const choice = choices.get(n);
  const select = box.querySelector("select");
  if (choice !== undefined && choice !== REMOVE && choice !== label(n)) select.value = choice;
  const name =
    choice === undefined
      ? ""
      : choice === REMOVE
        ? "remove"
        : choice === label(n)
          ? "keep"
          : "relabel";
  for (const button of box.querySelectorAll("button"))
    button.ariaPressed = String(button.dataset.decide === name);
  box.querySelector(".choice").textContent = said(n);
}
function redraw(changed) {
  for (const n of changed) {
    document.querySelectorAll(`.decide[data-n="${n}"]`).forEach(mark);
    for (const button of document.querySelectorAll(`.gallery .tile[data-n="${n}"]`))
      button.replaceChildren(picture(n), ...caption(n));
  }
  const values = [...choices];
  const removed = values.filter(([, choice]) => choice === REMOVE).length;
  const same = values.filter(([n, choice]) => choice === label(n)).length;
  const looked = images.suspects.filter(([n]) => choices.has(n) || checked(n)).length;
  const some = (many, one, more) => (many ? [`${count(many)} ${many === 1 ? one : more}`] : []);
  const parts = [
    ...some(values.length - removed - same, "label to correct", "labels to correct"),
    ...some(removed, "image to remove", "images to remove"),
    ...some(same, "label kept", "labels kept"),
  ];
  let text = parts.join(", ");
  if (suspects.size) text += `; ${count(looked)} of ${count(suspects.size)} suspects looked at`;
  if (!remembers) text += ". This browser keeps none of it: save before you leave the page";
  $("corrections-count").textContent = `${text}.`;
  $("corrections").hidden = !choices.size;
}

/** The table of corrections, as CSV: the lines that it has, changed and with new ones after them. */
function correctionsTable() {
  const lines = new Map([...lineOf].map(([id, line]) => [id, [...line]]));
  const byPath = [...choices.keys()].sort((a, b) => (images.path[a] < images.path[b] ? -1 : 1));
  for (const n of byPath) {
    const choice = choices.get(n);
    if (choice === label(n) && checked(n)) continue;
    const line = lines.get(images.id[n]) ?? table.columns.map(() => "");
    line[column.id] = images.id[n];
    line[column.path] = pathCell(images.path[n]);
    line[column.label] = choice;
    line[column.note] = choice === label(n) ? CHECKED : `was ${label(n)}`;
    lines.set(images.id[n], line);
  }
  for (const line of lines.values())
    if (made.has(line[column.label])) line[column.label] = NEW + line[column.label];
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [table.columns, ...lines.values()]
    .map((line) => `${line.map(quoted).join(",")}\n`)
    .join("");
}
// As stages/store/names.py writes it: a spreadsheet would take the rest for a formula.
const pathCell = (path) =>
  /^[=+\-@]/.test(path) && !/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(path) ? `./${path}` : path;
$("corrections-save").addEventListener("click", () => {
  const href = URL.createObjectURL(new Blob([correctionsTable()], { type: "text/csv" }));
  make("a", { href, download: "corrections.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
  $("corrections").querySelector("details").open = true;
});
$("corrections-drop").addEventListener("click", () => {
  if (!confirm(`Forget what you said of ${count(choices.size)} images?`)) return;
  const changed = [...choices.keys()];
  choices.clear();
  remember();
  redraw(changed);
  $("main").focus();
});

// Suspected label errors: a card each.
const cards = $("cards");
function card([n, suggested, score, ...near], at) {
  const figure = (title, image) => {
    const inside =
      image < 0 ? make("span", { className: "unpictured", textContent: "none" }) : tile(image);
    if (image >= 0)
      inside.replaceChildren(
        picture(image),
        make("span", { className: "path", textContent: images.path[image] }),
      );
    return make("div", {}, make("span", { textContent: title }), inside);
  };
  const [given, better] = [label(n), data.names[suggested]];
  const article = make(
    "article",
    {
      className: "card",
      tabIndex: at ? -1 : 0,
      ariaLabel: `${images.path[n]}: given ${given}, suggested ${better}`,
    },
    make(
      "p",
      {},
      "Given ",
      make("strong", { textContent: given }),
      ", suggested ",
      make("strong", { textContent: better }),
      make("span", {
        className: "note",
        textContent: ` (${images.sides[images.side[n]]}, score ${score})`,
      }),
    ),
    make(
      "div",
      { className: "triple" },
      figure("suspect", n),
      figure(`nearest ${given}`, near[0]),
      figure(`nearest ${better}`, near[1]),
    ),
    controls(n),
  );
  article.ariaPosInSet = at + 1;
  article.ariaSetSize = images.suspects.length;
  article.dataset.n = n;
  return article;
}
if (cards) {
  const draw = (wanted) => {
    const first = cards.children.length;
    const added = images.suspects.slice(first, first + wanted);
    cards.append(...added.map((suspect, k) => card(suspect, first + k)));
    $("more-cards").hidden = cards.children.length === images.suspects.length;
  };
  const go = (article) => {
    if (!article) return;
    for (const other of cards.querySelectorAll(".card[tabindex='0']")) other.tabIndex = -1;
    article.tabIndex = 0;
    article.focus();
  };
  cards.addEventListener("click", (event) => {
    const button = event.target.closest("button.tile");
    const among = images.suspects.map(([n]) => n);
    if (button) enlarge(+button.dataset.n, among, button);
  });
  cards.addEventListener("keydown", (event) => {
    const article = event.target.closest(".card");
    if (event.target.tagName === "SELECT" || decideByKey(event, article)) return;
    const all = [...cards.children];
    const at = all.indexOf(article);
    const columns = getComputedStyle(cards).gridTemplateColumns.split(" ").length;
    const to = placeByKey(event, at, all.length, columns);
    if (to === undefined) return;
    if (to >= all.length) draw(12);
    go(cards.children[to]);
  });
  $("more-cards").addEventListener("click", () => {
    const before = cards.children.length;
    draw(48);
    go(cards.children[before]);
  });
  recall();
  draw(12);
} else recall();
redraw([]);

// Issues: pairs of pictures, or single ones, as the lines of the table are.
for (const list of document.querySelectorAll("ul.issue")) {
  const { lines } = images.issues[list.dataset.issue];
  let drawn = 0;
  const more = make("button", { type: "button", textContent: "Show more" });
  const draw = (wanted) => {
    for (const [n, other, note, conflict] of lines.slice(drawn, drawn + wanted)) {
      const item = make("li", { className: other < 0 ? "" : "two" }, tile(n));
      if (other >= 0) item.append(tile(other));
      const textContent = [conflict && "two labels", note].filter(Boolean).join(", ");
      const className = conflict ? "not plain" : "note";
      if (textContent) item.append(make("span", { className, textContent }));
      list.append(item);
    }
    drawn += wanted;
    more.hidden = drawn >= lines.length;
  };
  more.addEventListener("click", () => {
    const before = list.querySelectorAll(".tile").length;
    draw(120);
    list.querySelectorAll(".tile")[before].focus();
  });
  list.after(more);
  draw(12);
}

// Map: test images by two numbers from 0 to 1000.
const canvas = $("map-points");
const points = [];
for (let k = 0; k < images.map.length; k += 3) {
  points.push({ n: images.map[k], x: images.map[k + 1], y: images.map[k + 2] });
}
let cross = { x: 500, y: 500 }; // where the keyboard is
let corners = null; // two of the rectangle
const MARGIN = 12;
const toCanvas = ({ x, y }) => [
  MARGIN + ((canvas.clientWidth - 2 * MARGIN) * x) / 1000,
  MARGIN + ((canvas.clientHeight - 2 * MARGIN) * (1000 - y)) / 1000,
];
const toMap = (left, top) => ({
  x: (1000 * (left - MARGIN)) / (canvas.clientWidth - 2 * MARGIN),
  y: 1000 - (1000 * (top - MARGIN)) / (canvas.clientHeight - 2 * MARGIN),
});
const nearest = (at) => {
  const far = ({ x, y }) => Math.hypot(x - at.x, y - at.y);
  return points.reduce((best, point) => (far(point) < far(best) ? point : best));
};
// The golden angle keeps the hues of any number of classes apart.
const hue = (k) => `hsl(${(k * 137.508 + 205) % 360} 70% 50%)`;
function colour(n) {
  const by = $("map-by").value;
  if (by !== "judged") return hue(images[by][n]);
  return judged(n) === "wrong" ? "#d55e00" : "#0072b2";
}
function drawMap() {
  if (!canvas) return;
  $("map-clear").hidden = !picked;
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  const inside = new Set(found);
  const ink = getComputedStyle(canvas).color;
  const radius = points.length > 3000 ? 1.5 : 3;
  // What the filters leave is coloured and on top.
  for (const passes of [false, true]) {
    pen.globalAlpha = passes ? 0.9 : 0.18;
    for (const point of points) {
      if (inside.has(point.n) !== passes) continue;
      pen.fillStyle = passes ? colour(point.n) : ink;
      pen.beginPath();
      pen.arc(...toCanvas(point), radius * (judged(point.n) === "wrong" ? 1.6 : 1), 0, 7);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = ink;
  if (corners) {
    const [[x, y], [right, below]] = corners.map(toCanvas);
    pen.strokeRect(x, y, right - x, below - y);
  }
  if (document.activeElement === canvas) {
    const [x, y] = toCanvas(cross);
    pen.strokeRect(x - 10, y, 20, 0);
    pen.strokeRect(x, y - 10, 0, 20);
  }
}
function legend() {
  const of = $("map-by").value;
  const entries =
    of === "judged"
      ? [
          ["right", "#0072b2"],
          ["wrong (larger)", "#d55e00"],
        ]
      : data.names.length <= 20
        ? data.names.map((name, k) => [name, hue(k)])
        : [];
  $("map-legend").replaceChildren(
    ...entries.map(([name, tint]) => {
      const dot = make("span", { className: "dot" });
      dot.style.background = tint;
      return make("li", {}, dot, name);
    }),
  );
}
function readMap(n) {
  $("map-readout").replaceChildren(make("div", { className: "tile" }, picture(n), ...caption(n)));
}
/** Leave only the images inside the rectangle, or all again. */
function pick(rectangle) {
  reset();
  if (rectangle) {
    corners = rectangle;
    const [[left, right], [low, high]] = ["x", "y"].map((axis) =>
      corners.map((corner) => corner[axis]).sort((a, b) => a - b),
    );
    const inside = ({ x, y }) => x >= left && x <= right && y >= low && y <= high;
    picked = new Set(points.filter(inside).map(({ n }) => n));
  }
  search();
}
if (canvas) {
  let start = null; // of a rectangle that is being dragged
  const at = (event) => toMap(event.offsetX, event.offsetY);
  canvas.addEventListener("pointerdown", (event) => {
    start = { ...at(event), left: event.offsetX, top: event.offsetY };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return readMap(nearest(at(event)).n);
    corners = [start, at(event)];
    drawMap();
  });
  canvas.addEventListener("pointerup", (event) => {
    const moved = start && Math.hypot(event.offsetX - start.left, event.offsetY - start.top) > 5;
    if (moved) pick([start, at(event)]);
    else if (start) {
      corners = null;
      enlarge(nearest(start).n, found, canvas);
    }
    start = null;
  });
  canvas.addEventListener("pointercancel", () => {
    start = corners = null;
    drawMap();
  });
  canvas.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 100 : 20;
    const [right, up] = {
      ArrowLeft: [-by, 0],
      ArrowRight: [by, 0],
      ArrowUp: [0, by],
      ArrowDown: [0, -by],
    }[event.key] ?? [0, 0];
    if (right || up) {
      cross = { x: cross.x + right, y: cross.y + up };
      if (start) corners = [start, cross];
      readMap(nearest(cross).n);
      drawMap();
    } else if (event.key === "Enter") enlarge(nearest(cross).n, found, canvas);
    else if (event.key === " ") {
      if (start) pick([start, cross]);
      start = start ? null : cross;
    } else if (event.key === "Escape") {
      start = null;
      pick(null);
    } else return;
    event.preventDefault();
  });
  for (const change of ["focus", "blur"]) canvas.addEventListener(change, drawMap);
  $("map-by").addEventListener("change", () => {
    legend();
    drawMap();
  });
  $("map-clear").addEventListener("click", () => pick(null));
  new ResizeObserver(drawMap).observe(canvas);
  legend();
}

// Threshold: how many test images get an answer, and how many of these answers are right.
const steps = data.threshold.length - 1;
const tests = data.threshold[0][0];
function wilson(right, n) {
  const z = 1.96;
  const middle = (right + (z * z) / 2) / (n + z * z);
  const half = (z / (n + z * z)) * Math.sqrt((right * (n - right)) / n + (z * z) / 4);
  return [middle - half, middle + half];
}
function answer() {
  const at = Math.round((steps * $("threshold").value) / 100);
  const [answered, right] = data.threshold[at];
  const share = percent(at / steps);
  const [low, high] = answered ? wilson(right, answered) : [0, 0];
  $("threshold").setAttribute("aria-valuetext", `${share}, answers ${percent(answered / tests)}`);
  $("threshold-readout").textContent = answered
    ? `With at least ${share} it answers ${count(answered)} of ${count(tests)} images ` +
      `(${percent(answered / tests)}); ${percent(right / answered)} of the answers are right ` +
      `(95 % interval ${percent(low)} to ${percent(high)}), ${count(answered - right)} wrong.`
    : `With at least ${share} it answers none of ${count(tests)} images.`;
  const curve = data.threshold.filter(([n]) => n).map(([n, r]) => [n / tests, r / n]);
  const floor = Math.min(0.99, Math.floor(20 * Math.min(...curve.map(([, y]) => y))) / 20);
  const x = (coverage) => 50 + 355 * coverage;
  const y = (accuracy) => 205 - (190 * (accuracy - floor)) / (1 - floor);
  const draw = (tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };
  const marks = [0, 0.25, 0.5, 0.75, 1];
  $("threshold-curve").replaceChildren(
    ...marks.flatMap((mark) => {
      const accuracy = floor + mark * (1 - floor);
      const [left, top] = [x(mark), y(accuracy)];
      return [
        draw("path", { class: "grid", d: `M50 ${top}H405M${left} 15V205` }),
        draw(
          "text",
          { x: 44, y: top + 4, "text-anchor": "end" },
          `${+(100 * accuracy).toFixed(2)} %`,
        ),
        draw("text", { x: left, y: 222, "text-anchor": "middle" }, `${100 * mark} %`),
      ];
    }),
    draw("text", { x: 228, y: 243, "text-anchor": "middle" }, "images that get an answer"),
    draw("text", { x: 56, y: 11 }, "right answers"),
    draw("path", { class: "line", d: `M${curve.map(([c, a]) => `${x(c)} ${y(a)}`).join("L")}` }),
    ...(answered
      ? [draw("circle", { cx: x(answered / tests), cy: y(right / answered), r: 6 })]
      : []),
  );
}
$("threshold").addEventListener("input", answer);
answer();

// Confusion matrix.
const matrix = $("matrix");
const size = confusion.classes.length;
const counts = new Map(confusion.cells.map(([i, j, n]) => [i * size + j, n]));
const cell = (i, j) => counts.get(i * size + j) || 0;
const name = (i) => data.names[confusion.classes[i]];

function orders() {
  const listed = [...Array(size).keys()];
  const by = (value) => [...listed].sort((a, b) => value(a) - value(b) || a - b);
  switch ($("matrix-order").value) {
    case "f1":
      return by((i) => confusion.f1[i]);
    case "size":
      return by((i) => -confusion.actual[i]);
    case "similar":
      return similar();
    default:
      return listed;
  }
}
// From the class with most errors on, always next to the end of the row goes the class that
// is confused with it most.
function similar() {
  const between = (i, j) => cell(i, j) + cell(j, i);
  const left = new Set(Array(size).keys());
  const errors = (i) => confusion.actual[i] + confusion.predicted[i] - 2 * cell(i, i);
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

function drawMatrix() {
  const order = orders();
  const of = $("matrix-of").value;
  const largest = Math.max(1, ...counts.values());
  const numbers = size <= 20;
  const table = document.createElement("table");
  const side = size <= 12 ? 46 : size <= 20 ? 38 : size <= 40 ? 20 : size <= 70 ? 13 : 9;
  table.style.setProperty("--cell", `${side}px`);
  table.style.setProperty("--label", `${Math.min(13, Math.max(9, side - 1))}px`);
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
      const n = cell(i, j);
      const share =
        n / Math.max(1, of === "predicted" ? confusion.predicted[j] : confusion.actual[i]);
      const value = of === "count" ? n / largest : share;
      const td = row.insertCell();
      td.tabIndex = -1;
      td.dataset.i = i;
      td.dataset.j = j;
      // The root makes rare errors visible beside frequent ones.
      td.style.setProperty("--v", Math.sqrt(value).toFixed(3));
      if (i === j) td.className = "same";
      if (numbers && n) td.textContent = of === "count" ? n : (100 * share).toFixed(1);
      td.setAttribute("aria-label", describe(i, j));
    }
  }
  body.rows[0].cells[1].tabIndex = 0;
  matrix.replaceChildren(table);
  matrix.dispatchEvent(new Event("redrawn"));
}
function describe(i, j) {
  const n = cell(i, j);
  const what = i === j ? `${name(i)}, predicted right` : `actual ${name(i)}, predicted ${name(j)}`;
  return (
    `${what}: ${count(n)} of ${count(confusion.actual[i])} images, ` +
    `${percent(n / Math.max(1, confusion.actual[i]))} of the actual class, ` +
    `${percent(n / Math.max(1, confusion.predicted[j]))} of the predicted class`
  );
}
const cellAt = (event) => event.target.closest("td[data-i]");
const read = (event) => {
  const td = cellAt(event);
  if (td) $("matrix-readout").textContent = describe(+td.dataset.i, +td.dataset.j);
};
const open = ({ dataset: { i, j } }) => {
  if (cell(+i, +j)) show({ label: confusion.classes[i], predicted: confusion.classes[j] });
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
for (const id of ["matrix-order", "matrix-of"]) $(id).addEventListener("change", drawMatrix);
if (size < data.names.length) {
  $("matrix-note").textContent =
    `The ${size} of ${data.names.length} classes with most mistakes are shown.`;
}
drawMatrix();

// The page opens on the mistakes, if there are any.
if (images.predicted.some((predicted, n) => judged(n) === "wrong")) filters.judged.value = "wrong";
search();
