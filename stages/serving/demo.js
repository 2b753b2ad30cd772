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

const { classes, judgement, neighbours } = exported;
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
  $("#answer").classList.toggle("busy", verdict !== "");
}

function fail(error) {
  clear("");
  $("#error").textContent = error.message;
}

function show(file) {
  const picture = $("#picture img");
  URL.revokeObjectURL(picture.src);
  picture.onload = () => picture.classList.toggle("small", picture.naturalWidth < 200);
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
  $("#nearest").hidden = !neighbours || nearest === null;
  if ($("#nearest").hidden) return;
  const { file, columns, labels } = neighbours;
  const name = classes[labels[nearest]];
  const at = [nearest % columns, Math.floor(nearest / columns)];
  const thumbnail = $("#thumbnail");
  thumbnail.ariaLabel = `A training image of the class ${name}`;
  thumbnail.style.setProperty("--side", `${THUMBNAIL}px`);
  thumbnail.style.backgroundImage = `url("${file}")`;
  thumbnail.style.backgroundSize = `${columns * THUMBNAIL}px auto`;
  thumbnail.style.backgroundPosition = at.map((n) => `${-n * THUMBNAIL}px`).join(" ");
  $("#nearest p").textContent = `${name}; distance ${distance.toFixed(3)} (0 is the same, 2 the opposite)`;
}
