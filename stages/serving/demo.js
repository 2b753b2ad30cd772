"use strict";
// The page: an image goes to the backend (server.js or browser.js), its answer into the page.
// Whatever is shown is set as text, never as markup.
const $ = (selector) => document.querySelector(selector);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
// Nothing is certain or impossible by rounding.
const percent = (share) => {
  if (share < 1 && share >= 0.9995) return "> 99.9 %";
  return share > 0 && share < 0.0005 ? "< 0.1 %" : `${+(100 * share).toFixed(1)} %`;
};
const THUMBNAIL = 96; // pixels of the screen

const VEIL = "rgb(0 0 0 / 80%)"; // over what says nothing; it is seen on any colours
const HEAT_PIXELS = 600; // of the longer side; it is smooth

const { classes, judgement, neighbours, preprocess } = exported;
const { accuracy, count } = judgement.test;
$("#model").textContent =
  `The model tells ${classes.length.toLocaleString("en")} classes apart; ` +
  `${percent(accuracy)} of ${count.toLocaleString("en")} test images were right.`;
$("footer").append(...backend.notes.map((textContent) => make("p", { textContent })));

// The model is loaded once, when the page is there.
const loaded = backend.load();
loaded.catch(fail);

// Where images come from.
for (const input of document.querySelectorAll("input[type=file]"))
  input.addEventListener("change", () => {
    look(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
$("#toggle input").addEventListener("change", showHeat);
addEventListener("paste", (event) => look(event.clipboardData.files));
let depth = 0;
const over = (change) => {
  depth = Math.max(0, depth + change);
  $("#choose").classList.toggle("over", depth > 0);
};
addEventListener("dragenter", () => over(1));
addEventListener("dragleave", () => over(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  over(-depth);
  look(event.dataTransfer.files);
});
exported.examples.forEach((source, at) => {
  const name = `Test image ${at + 1}`;
  const picture = make("img", { src: source, alt: name });
  picture.onerror = () => picture.closest("li").remove(); // a format that no browser shows
  const button = make("button", { type: "button" }, picture);
  button.addEventListener("click", async () => {
    try {
      look([new File([await backend.open(source)], name)]);
    } catch (error) {
      fail(error);
    }
  });
  $("#examples ul").append(make("li", {}, button));
  $("#examples").hidden = false;
});

// The last image asked for is the one that is answered.
let asked = 0;
async function look([file, ...others]) {
  const turn = ++asked;
  $("#error").textContent = "";
  if (!file) return fail(new Error("no image in what was dropped or pasted"));
  show(file);
  clear("Loading the model …");
  try {
    await loaded;
    if (turn !== asked) return;
    $("#verdict").textContent = "Looking …";
    const answer = await backend.classify(file);
    if (turn === asked) tell(answer, others.length);
  } catch (error) {
    if (turn === asked) fail(new Error(`${file.name}: ${error.message}`));
  }
}

function clear(verdict) {
  $("#verdict").textContent = verdict;
  $("#unlike").textContent = "";
  $("#more").hidden = true;
  tellHeat(null);
  $("#answer").classList.toggle("busy", verdict !== "");
}

function fail(error) {
  clear("");
  $("#error").textContent = error.message;
}

function show(file) {
  const picture = $("#picture img");
  URL.revokeObjectURL(picture.src);
  picture.onload = () => {
    picture.classList.toggle("small", picture.naturalWidth < 200);
    showHeat();
  };
  picture.onerror = () => ($("#picture").hidden = true); // the server may read what no browser shows
  picture.src = URL.createObjectURL(file);
  $("#picture figcaption").textContent = file.name;
  $("#picture").hidden = false;
}

function tell(answer, others) {
  clear("");
  const [best] = answer.classes;
  const names = answer.set ?? [best.name];
  $("#verdict").textContent = listed(names);
  if (answer.unlike)
    $("#unlike").textContent = "Unlike the training images: it may be none of these classes.";
  const notes = [];
  if (others) notes.push(`This is the first of ${others + 1} images; the others were left alone.`);
  if (answer.set) {
    const share = percent(judgement.sets.share);
    notes.push(`Of images like the training images, at least ${share} are of a class that is named.`);
  }
  $("#meaning").textContent = notes.join(" ");
  $("#classes").replaceChildren(
    ...answer.classes.map(({ name, probability }) => {
      const bar = make("span");
      bar.style.width = `${100 * probability}%`;
      return make(
        "li",
        { className: names.includes(name) ? "inside" : "" },
        make("span", { className: "name", textContent: name }),
        make("span", { className: "share", textContent: percent(probability) }),
        make("span", { className: "bar", ariaHidden: "true" }, bar),
      );
    }),
  );
  tellNearest(answer);
  tellHeat(answer.heat, best.name);
  $("#more").hidden = false;
  $("#verdict").scrollIntoView({ block: "nearest" }); // on a phone it is below the picture
}

// cat; cat or dog; cat, dog or 7 others
function listed(names) {
  const most = 4;
  const shown = names.length > most ? names.slice(0, most - 1) : names;
  const left = names.length - shown.length;
  const parts = left ? [...shown, `${left.toLocaleString("en")} others`] : shown;
  return parts.length < 2 ? parts.join() : `${parts.slice(0, -1).join(", ")} or ${parts.at(-1)}`;
}

function tellNearest({ nearest, distance }) {
  $("#nearest").hidden = !neighbours || !nearest.length;
  if ($("#nearest").hidden) return;
  const { file, columns, labels } = neighbours;
  $("#nearest h2").textContent = `Most similar training image${nearest.length > 1 ? "s" : ""}`;
  $("#nearest ul").replaceChildren(
    ...nearest.map((number) => {
      const name = classes[labels[number]];
      const at = [number % columns, Math.floor(number / columns)];
      const thumbnail = make("span", { className: "thumbnail", role: "img" });
      thumbnail.ariaLabel = `A training image of the class ${name}`;
      thumbnail.style.setProperty("--side", `${THUMBNAIL}px`);
      thumbnail.style.backgroundImage = `url("${file}")`;
      thumbnail.style.backgroundSize = `${columns * THUMBNAIL}px auto`;
      thumbnail.style.backgroundPosition = at.map((n) => `${-n * THUMBNAIL}px`).join(" ");
      return make("li", {}, thumbnail, make("span", { className: "name", textContent: name }));
    }),
  );
  const first = nearest.length > 1 ? "distance of the first" : "distance";
  $("#nearest p").textContent = `${first} ${distance.toFixed(3)} (0 is the same, 2 the opposite)`;
}

// `heat`: rows of what the net saw, how much each part speaks for the class `name`; null if unknown.
let heat = null;
function tellHeat(told, name) {
  heat = told?.some((row) => row.some((value) => value > 0)) ? told : null;
  $("#toggle").hidden = !heat;
  if (heat) {
    $("#toggle span").textContent = `Show what speaks for ${name}`;
    $("#heat").ariaLabel = `What speaks for ${name}, most of all in the ${part(heat)}`;
  }
  showHeat();
}

// In words, where `heat` is highest.
function part(heat) {
  const values = heat.flat();
  const at = values.indexOf(Math.max(...values));
  const third = (n, count) => Math.min(2, Math.floor((3 * (n + 0.5)) / count));
  const row = third(Math.floor(at / heat[0].length), heat.length);
  const column = third(at % heat[0].length, heat[0].length);
  if (row === 1 && column === 1) return "middle";
  return ["top", "middle", "bottom"][row] + [" left", "", " right"][column];
}

function showHeat() {
  const { naturalWidth: width, naturalHeight: height } = $("#picture img");
  const canvas = $("#heat");
  canvas.hidden = !heat || !$("#toggle input").checked || !width;
  if (canvas.hidden) return;
  const small = make("canvas", { width: heat[0].length, height: heat.length });
  const opacity = new Uint8ClampedArray(heat.flat().flatMap((value) => [0, 0, 0, 255 * value]));
  small.getContext("2d").putImageData(new ImageData(opacity, small.width), 0, 0);
  // The net saw the part `box` of the picture, as the part `resized` at `corner` of `size`.
  const { box, resized, corner } = place(height, width, preprocess.size, preprocess.resize);
  const [left, top, right, bottom] = box;
  const across = (right - left) / resized[1];
  const down = (bottom - top) / resized[0];
  const scale = HEAT_PIXELS / Math.max(width, height);
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.imageSmoothingQuality = "high";
  context.drawImage(
    small,
    left - corner[1] * across,
    top - corner[0] * down,
    preprocess.size[1] * across,
    preprocess.size[0] * down,
  );
  context.globalCompositeOperation = "source-out"; // what was drawn becomes a hole in the veil
  context.fillStyle = VEIL;
  context.fillRect(0, 0, width, height);
}
