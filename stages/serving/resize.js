"use strict";
// stages/images/resize.py for the browser: the same names and the same steps, since a canvas
// resizes in another way. An image is { data: Uint8Array, height, width, channels }, row by row.

const FILTERS = {
  area: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [
    2,
    (x) => {
      const far = Math.abs(x);
      if (far < 1) return (1.5 * far - 2.5) * far * far + 1;
      return far < 2 ? (((far - 5) * far + 8) * far - 4) * -0.5 : 0;
    },
  ],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
const FEW = 1.5;
const ROUNDING = 1e-6;
const SPARE = 1.25;
const PART_BYTES = 2 ** 19;

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Half to even, as in Python.
function rint(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low & 1) : Math.round(x);
}

// What `color: grayscale` makes of red, green and blue.
const grey = (red, green, blue) => (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;

// { box: [left, top, right, bottom], resized: [height, width], corner: [y, x] }
function place(height, width, [down, across], resize) {
  if (resize === "crop") {
    if (width * down > height * across) {
      const left = (width - (across * height) / down) / 2;
      return { box: [left, 0, width - left, height], resized: [down, across], corner: [0, 0] };
    }
    const top = (height - (down * width) / across) / 2;
    return { box: [0, top, width, height - top], resized: [down, across], corner: [0, 0] };
  }
  const box = [0, 0, width, height];
  if (resize !== "pad") return { box, resized: [down, across], corner: [0, 0] };
  const scale = Math.max(width / across, height / down);
  const resized = [
    Math.min(down, Math.max(1, rint(height / scale))),
    Math.min(across, Math.max(1, rint(width / scale))),
  ];
  const corner = [Math.floor((down - resized[0]) / 2), Math.floor((across - resized[1]) / 2)];
  return { box, resized, corner };
}

// By how much our decoder has a JPEG reduced while it is decoded (stages/images/decode.py).
function reduction({ box: [left, top, right, bottom], resized: [height, width] }) {
  const ratio = Math.min((bottom - top) / height, (right - left) / width);
  return [8, 4, 2].find((factor) => factor * SPARE <= ratio) ?? 1;
}

// `image`, stored reduced by `factor`, in its place on the background: what goes into the net.
function fit(image, placement, factor, settings) {
  const box = placement.box.map((edge) => edge / factor);
  const resized = resize(image, box, placement.resized, settings.interpolation, factor > 1);
  const [height, width] = settings.size;
  if (resized.height === height && resized.width === width) return resized;
  const { channels } = image;
  const colour = channels === 1 ? [grey(...settings.background)] : settings.background;
  const output = blank(height, width, channels);
  output.data.forEach((_, at) => (output.data[at] = colour[at % channels]));
  const [y, x] = placement.corner;
  const row = resized.width * channels;
  for (let n = 0; n < resized.height; n++) {
    const from = resized.data.subarray(n * row, (n + 1) * row);
    output.data.set(from, ((y + n) * width + x) * channels);
  }
  return output;
}

function resize(image, box, [height, width], interpolation, means = false) {
  const { height: rows, width: columns } = image;
  const [left, top, right, bottom] = box;
  if (height === rows && width === columns && !left && !top && right === columns && bottom === rows)
    return image;
  if (interpolation === "nearest") return nearest(image, box, [height, width]);
  if (interpolation !== "area") return filter(image, box, [height, width], interpolation);
  const ratio = Math.min((bottom - top) / height, (right - left) / width);
  if (ratio >= 1 && ratio < FEW) return filter(image, box, [height, width], "bilinear");
  if (means && ratio >= FEW) {
    const multiple = Math.max(2, Math.floor(ratio));
    const finer = [height * multiple, width * multiple];
    const parts = filter(image, box, finer, "bilinear");
    return filter(parts, [0, 0, finer[1], finer[0]], [height, width], "area");
  }
  const down = bottom - top > height ? [top, bottom, height] : [0, rows, rows];
  const across = right - left > width ? [left, right, width] : [0, columns, columns];
  let output = image;
  if (down[2] < rows || across[2] < columns)
    output = filter(output, [across[0], down[0], across[1], down[1]], [down[2], across[2]], "area");
  if (right - left <= width) output = turned(enlarge(turned(output), left, right, width));
  return bottom - top <= height ? enlarge(output, top, bottom, height) : output;
}

const blank = (height, width, channels) => ({
  data: new Uint8Array(height * width * channels),
  height,
  width,
  channels,
});

// Rows to columns.
function turned({ data, height, width, channels }) {
  const output = blank(width, height, channels);
  for (let y = 0, from = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++, from++)
        output.data[(x * height + y) * channels + c] = data[from];
  return output;
}

// As Pillow: the box in single precision, the place of each pixel by adding up steps.
function nearest({ data, height, width, channels }, box, [down, across]) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const places = (start, stop, count, length) => {
    const step = Math.fround(stop - start) / count;
    let at = start + step * 0.5;
    return Array.from({ length: count }, () => {
      const place = Math.min(length - 1, Math.floor(at));
      at += step;
      return place;
    });
  };
  const rows = places(top, bottom, down, height);
  const columns = places(left, right, across, width);
  const output = blank(down, across, channels);
  let to = 0;
  for (const y of rows)
    for (const x of columns)
      for (let c = 0; c < channels; c++)
        output.data[to++] = data[(y * width + x) * channels + c];
  return output;
}

function filter(image, box, [height, width], name) {
  const cut = box[0] !== 0 || box[2] !== image.width;
  const byPillow = cut && (name === "bicubic" || name === "lanczos");
  const [left, top, right, bottom] = byPillow ? box.map(Math.fround) : box;
  const across = weights(left, left + (right - left), width, image.width, name, byPillow);
  if (byPillow) {
    const down = weights(top, bottom, height, image.height, name, byPillow);
    return filterRows(filterColumns(image, across), down);
  }
  // In the same parts, since half a pixel more or less counts where an output pixel begins.
  const scale = (bottom - top) / height;
  const reach = FILTERS[name][0] * Math.max(scale, 1);
  const parts = Math.min(height, Math.ceil(image.data.length / PART_BYTES));
  const row = image.width * image.channels;
  const output = blank(height, width, image.channels);
  for (let part = 0; part < parts; part++) {
    const start = Math.floor((height * part) / parts);
    const stop = Math.floor((height * (part + 1)) / parts);
    const upper = top + start * scale;
    const lower = stop === height ? bottom : top + stop * scale;
    const first = Math.max(0, Math.floor(upper - reach));
    const last = Math.min(image.height, Math.ceil(lower + reach));
    const rows = { ...image, data: image.data.subarray(first * row, last * row), height: last - first };
    // As sums, for the same roundings.
    const from = upper - first;
    const down = weights(from, from + (lower - upper), stop - start, rows.height, name);
    output.data.set(filterColumns(filterRows(rows, down), across).data, start * width * image.channels);
  }
  return output;
}

// For each of `count` outputs the first of `length` inputs that counts, and the weights from there:
// whole numbers, 2 ** precision in all. fast_image_resize has 16 bits for each, Pillow 32.
function weights(start, stop, count, length, name, byPillow) {
  if (stop - start === count && Number.isInteger(start))
    return { precision: 1, parts: Array.from({ length: count }, (_, n) => [start + n, [2]]) };
  const [reach, weigh] = FILTERS[name];
  const step = (stop - start) / count;
  const scale = Math.max(step, 1);
  const parts = [];
  for (let n = 0; n < count; n++) {
    const centre = start + (n + 0.5) * step;
    let first = Math.max(0, Math.floor(centre - reach * scale));
    const last = Math.min(length, Math.ceil(centre + reach * scale));
    const values = [];
    for (let at = first; at < last; at++) values.push(weigh((at - (centre - 0.5)) * (1 / scale)));
    while (values.length && values[0] === 0) first += values.shift() + 1;
    while (values.length && values[values.length - 1] === 0) values.pop();
    const sum = values.reduce((total, value) => total + value, 0);
    parts.push([first, values.map((value) => value / sum)]);
  }
  const scaled = (precision) => {
    const whole = (value) => Math.sign(value) * Math.round(Math.abs(value) * 2 ** precision);
    return { precision, parts: parts.map(([first, values]) => [first, values.map(whole)]) };
  };
  if (byPillow) return scaled(22);
  const most = parts.reduce((largest, [, values]) => Math.max(largest, ...values), 0);
  let precision = 0;
  while (precision < 21 && Math.round(most * 2 ** (precision + 1)) < 2 ** 15) precision++;
  return scaled(precision);
}

function filterRows({ data, width, channels }, { precision, parts }) {
  const row = width * channels;
  const output = blank(parts.length, width, channels);
  const clipped = new Uint8ClampedArray(output.data.buffer);
  const sums = new Int32Array(row);
  parts.forEach(([first, values], y) => {
    sums.fill(1 << (precision - 1));
    values.forEach((weight, n) => {
      const from = (first + n) * row;
      for (let x = 0; x < row; x++) sums[x] += weight * data[from + x];
    });
    for (let x = 0; x < row; x++) clipped[y * row + x] = sums[x] >> precision;
  });
  return output;
}

function filterColumns({ data, height, width, channels }, { precision, parts }) {
  const output = blank(height, parts.length, channels);
  const clipped = new Uint8ClampedArray(output.data.buffer);
  let to = 0;
  for (let y = 0; y < height; y++)
    for (const [first, values] of parts)
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (precision - 1);
        let from = (y * width + first) * channels + c;
        for (let n = 0; n < values.length; n++, from += channels) sum += values[n] * data[from];
        clipped[to++] = sum >> precision;
      }
  return output;
}

function enlarge(image, start, stop, count) {
  const { data, height, width, channels } = image;
  if (start === 0 && stop === height && count === height) return image;
  const step = (stop - start) / count;
  const row = width * channels;
  const output = blank(count, width, channels);
  for (let n = 0; n < count; n++) {
    const edge = start + n * step;
    const first = Math.floor(edge + ROUNDING);
    const share = Math.min(256, rint(((first + 1 - edge) / step) * 256));
    const upper = first * row;
    const lower = share < 256 ? upper + row : upper;
    for (let x = 0; x < row; x++)
      output.data[n * row + x] = (data[upper + x] * share + data[lower + x] * (256 - share) + 128) >> 8;
  }
  return output;
}
