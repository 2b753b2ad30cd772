"use strict";
// The page's backend without a server: the browser decodes, resize.js resizes, ONNX Runtime's wasm
// runs the net. The parts are large, so they are scripts of their own (a page that was opened as
// a file may load scripts, but fetch nothing), each `packed.NAME = "gzip, in base64"`.

globalThis.packed = {};
const JPEG = "255,216,255"; // how files begin
const PNG = "137,80,78,71,13,10,26,10";
const STRIP_PIXELS = 2 ** 20; // read from the canvas at a time; phones have no canvas for a whole photo

const backend = {
  notes: [
    "Nothing leaves this device: the model runs in the browser.",
    "Answers to PNG are those of the pipeline, and to JPEG nearly so: what is reduced while it is " +
      "decoded differs by less than a level of 255 on average. CMYK and 16 bits are converted as the " +
      "browser does it. TIFF, HEIC and others that the browser does not know cannot be read, and " +
      "few browsers turn a WebP as its EXIF data say.",
  ],

  // Makes the model ready; the page is there before.
  async load() {
    for (const name of ["createImageBitmap", "DecompressionStream", "WebAssembly"])
      if (!(name in globalThis)) throw new Error(`this browser is too old: it has no ${name}`);
    await Promise.all(["ort.js", "runtime.js", "model.js"].map(script));
    const module = new Blob([await unpack("module")], { type: "text/javascript" });
    ort.env.wasm.numThreads = 1; // more need headers that a file has not
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(module) };
    ort.env.wasm.wasmBinary = await unpack("wasm");
    const options = { executionProviders: ["wasm"] };
    this.session = await ort.InferenceSession.create(await unpack("model"), options);
  },

  // The picture `source` of exported.examples, a data: URL.
  async open(source) {
    return new Blob([bytes(source.split(",")[1])]);
  },

  async classify(file) {
    const image = await decode(file, exported.preprocess);
    const shape = [1, image.height, image.width, image.channels];
    const input = new ort.Tensor("uint8", image.data, shape);
    return answer(await this.session.run({ [this.session.inputNames[0]]: input }));
  },
};

// As stages/inference/answers.py: float32 are compared with thresholds of the same precision.
function answer({ probabilities, distance, nearest, heat }) {
  const { classes, judgement } = exported;
  const [far] = distance.data.map((value) => rint(Math.fround(value * 1e5)) / 1e5);
  const values = [...probabilities.data];
  const order = values.map((_, k) => k).sort((a, b) => values[b] - values[a] || a - b);
  const reaches = (k) => k === order[0] || values[k] >= Math.fround(judgement.sets.threshold);
  return {
    classes: order.slice(0, judgement.top_k).map((k) => ({ name: classes[k], probability: values[k] })),
    set: judgement.sets && order.filter(reaches).map((k) => classes[k]),
    unlike: judgement.unlike && far > Math.fround(judgement.unlike.threshold),
    distance: Number.isNaN(far) ? null : far,
    nearest: [...nearest.data].filter((at) => at >= 0),
    heat: heat ? rows(heat) : null,
  };
}

// The tensor of one image, a list of rows.
const rows = ({ data, dims: [, height, width] }) =>
  Array.from({ length: height }, (_, row) => [...data.subarray(row * width, (row + 1) * width)]);

const script = (src) =>
  new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = src;
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${src} is missing beside this page; copy its whole folder`));
    document.head.append(element);
  });

function bytes(base64) {
  const text = atob(base64);
  const array = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) array[at] = text.charCodeAt(at);
  return array;
}

async function unpack(name) {
  const unzipped = new Blob([bytes(packed[name])]).stream().pipeThrough(new DecompressionStream("gzip"));
  delete packed[name];
  return new Uint8Array(await new Response(unzipped).arrayBuffer());
}

// `file` as the pixels that go into the net.
async function decode(file, settings) {
  const start = [...new Uint8Array(await file.slice(0, 26).arrayBuffer())];
  const jpeg = start.slice(0, 3).join() === JPEG;
  if (settings.sixteen_bit === "image" && start.slice(0, 8).join() === PNG && start[24] === 16)
    throw new Error("a browser reduces 16 bits a channel otherwise than this model wants; use predict");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("this browser cannot read the file as an image; save it as PNG or JPEG");
  }
  const placement = place(bitmap.height, bitmap.width, settings.size, settings.resize);
  const factor = jpeg && settings.interpolation !== "nearest" ? reduction(placement) : 1;
  const image = read(bitmap, factor, settings);
  bitmap.close();
  return fit(image, placement, factor, settings);
}

// The means of `factor` x `factor` pixels of `bitmap`, over the background where it is transparent.
function read(bitmap, factor, { color, background }) {
  const { height, width } = bitmap;
  const channels = color === "grayscale" ? 1 : 3;
  const output = blank(Math.ceil(height / factor), Math.ceil(width / factor), channels);
  const rows = Math.min(height, factor * Math.max(1, Math.floor(STRIP_PIXELS / width / factor)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height: rows });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = `rgb(${background.join()})`;
  for (let top = 0; top < height; top += rows) {
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, Math.min(rows, height - top));
    means(data, width, factor, output, top / factor);
  }
  return output;
}

// Into `output`, from its row `start` on: the means of squares of `rgba`, which is `width` wide.
function means(rgba, width, factor, output, start) {
  const { channels } = output;
  const height = rgba.length / 4 / width;
  const down = Math.ceil(height / factor);
  const sums = new Uint32Array(down * output.width * channels);
  for (let y = 0, from = 0; y < height; y++) {
    const row = Math.floor(y / factor) * output.width;
    for (let x = 0; x < width; x++, from += 4) {
      const to = (row + Math.floor(x / factor)) * channels;
      if (channels === 1) sums[to] += grey(rgba[from], rgba[from + 1], rgba[from + 2]);
      else for (let c = 0; c < 3; c++) sums[to + c] += rgba[from + c];
    }
  }
  for (let y = 0, at = 0; y < down; y++) {
    const tall = Math.min(factor, height - y * factor);
    for (let x = 0; x < output.width; x++) {
      const count = tall * Math.min(factor, width - x * factor);
      for (let c = 0; c < channels; c++, at++)
        output.data[start * output.width * channels + at] = Math.floor(sums[at] / count + 0.5);
    }
  }
}
