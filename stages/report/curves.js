// Curves that answer to the pointer: values, zoom, smoothing, another run laid over them. They
// take the place of the pictures drawn without a script, which stay for print.
{
  const charts = JSON.parse($("curves-data").textContent);
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"]; // of style.py
  const NAMED = { training: "#56b4e9", validation: "#d55e00" };
  const [LEFT, RIGHT, TOP, BOTTOM] = [52, 10, 22, 40]; // pixels around the plot
  const panels = [];
  let other = {}; // the charts of the run that is laid over

  const draw = (parent, tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    parent.append(element);
    return element;
  };
  const say = (value, kind) =>
    kind === "share"
      ? `${+(100 * value).toFixed(2)} %`
      : kind === "number"
        ? `${+value.toPrecision(4)}`
        : value.toLocaleString("en", { maximumFractionDigits: 2 });
  // Round steps, at most so many.
  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
    const first = Math.ceil(low / step - 1e-6);
    const count = Math.floor(high / step + 1e-6) - first + 1;
    return Array.from({ length: count }, (_, k) => +((first + k) * step).toPrecision(12));
  }
  // Exponential moving average that starts at the first value.
  function smoothed(values, weight) {
    let sum = 0,
      share = 0;
    return values.map((value) => {
      sum = weight * sum + (1 - weight) * value;
      share = weight * share + 1 - weight;
      return sum / share;
    });
  }
  // The value of a line at x, between points on the straight line; where it is upright, the top.
  function at({ x: xs, y: ys }, x, between) {
    const exact = ys.filter((_, k) => xs[k] === x);
    if (exact.length) return Math.max(...exact);
    const k = xs.findIndex((left, i) => left < x && x < xs[i + 1]);
    if (!between || k < 0) return null;
    return ys[k] + ((ys[k + 1] - ys[k]) * (x - xs[k])) / (xs[k + 1] - xs[k]);
  }

  // The ends of the 95 % intervals of shares of so many images.
  function intervals({ y, n }) {
    const ends = y.map((share, k) => wilson(share * n[k], n[k]));
    return { low: ends.map(([low]) => low), high: ends.map(([, high]) => high) };
  }

  function Panel(spec, figure) {
    const { x: across, y: up } = spec;
    const log = across.kind === "log";
    const place = log ? Math.log : (x) => x;
    const hidden = new Set();
    let weight = 0,
      view = null,
      cursor = null,
      drag = null;
    let width, height, plot, marks, lines, whole;

    const svg = draw(document.createDocumentFragment(), "svg", {
      tabindex: 0,
      role: "application",
      "aria-label": `${spec.title}. Arrow keys read values, plus and minus zoom, 0 shows it as at first.`,
    });
    const legend = make("ul", { className: "legend" });
    const where = make("p", { className: "note where" });
    const spoken = make("p", { className: "hidden" });
    spoken.setAttribute("aria-live", "polite");
    const button = (text, label, press) => {
      const made = make("button", { type: "button", textContent: text, title: label });
      made.setAttribute("aria-label", `${label}: ${spec.title}`);
      made.addEventListener("click", press);
      return made;
    };
    const controls = make(
      "p",
      { className: "controls" },
      button("+", "Zoom in", () => zoom(0.5)),
      button("−", "Zoom out", () => zoom(2)),
      button("As at first", "Undo the zoom", () => zoom()),
    );
    if (spec.smooth && spec.lines[0].x.length > 2) {
      const slider = make("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: 0 });
      slider.addEventListener("input", () => {
        weight = +slider.value;
        redraw();
      });
      controls.append(make("label", { className: "smooth" }, "Smooth ", slider));
    }
    const element = make(
      "div",
      { className: "panel" },
      make("h3", { textContent: spec.title }),
      svg,
      where,
      legend,
      spoken,
      controls,
    );

    const x = (value) => ((place(value) - view[0]) / (view[1] - view[0])) * width;
    const y = (value) => height - ((value - view[2]) / (view[3] - view[2])) * height;
    const unplace = (value) => (log ? Math.exp(value) : value);

    function colour({ name, guide, area }, k) {
      if (guide) return "var(--soft)";
      if (area == null) return NAMED[name] ?? COLOURS[0];
      return k ? COLOURS[(k - 1) % COLOURS.length] : "currentColor"; // the first is the mean
    }
    // Our lines, then those of the other run: dotted, in the same colours.
    function gather() {
      const theirs = other[figure.dataset.chart]?.find(
        ({ title }) => title.split(":")[0] === spec.title.split(":")[0],
      );
      const mine = spec.lines.map((line, k) => ({
        ...line,
        colour: colour(line, k),
        dash: line.guide ? "1 4" : k > 6 ? "7 3" : "none",
      }));
      const laid = (theirs?.lines ?? [])
        .filter(({ guide }) => !guide)
        .map((line) => ({
          ...line,
          colour: mine.find(({ name }) => name === line.name)?.colour ?? "var(--soft)",
          dash: "2 3",
          other: true,
        }));
      lines = [...mine, ...laid].map((line) => ({
        ...line,
        ...(line.n && intervals(line)),
        y: smoothed(line.y, weight),
        raw: line.y,
      }));
      const all = (key) => lines.flatMap((line) => line[key] ?? []);
      const pad = (low, high) => [low, high, (high - low) * 0.05 || Math.abs(high) * 0.05 || 1];
      const [left, right, side] = pad(
        Math.min(...all("x").map(place)),
        Math.max(...all("x").map(place)),
      );
      const [low, high, rim] = pad(
        Math.min(...all("raw"), ...all("low")),
        Math.max(...all("raw"), ...all("high")),
      );
      whole = [left - side, right + side, low - rim, high + rim];
      let first = whole;
      if (spec.view) {
        let [l, r, b, t] = spec.view;
        if (theirs?.view)
          [l, r, b, t] = [
            Math.min(l, theirs.view[0]),
            Math.max(r, theirs.view[1]),
            Math.min(b, theirs.view[2]),
            t,
          ];
        const [h, v] = [0.04 * (r - l), 0.04 * (t - b)];
        first = [l - h, r + h, b - v, t + v];
      }
      return first;
    }

    // Along x, around the cursor; the height is what the lines need there.
    function zoom(factor) {
      const first = gather();
      view ??= first;
      if (factor) {
        const middle = cursor === null ? (view[0] + view[1]) / 2 : place(cursor);
        const ends = [Math.min(whole[0], first[0]), Math.max(whole[1], first[1])];
        const left = Math.max(ends[0], middle + (view[0] - middle) * factor);
        const right = Math.min(ends[1], middle + (view[1] - middle) * factor);
        const seen = lines
          .filter(({ name }) => !hidden.has(name))
          .flatMap((line) => [
            ...line.y.filter((_, k) => left <= place(line.x[k]) && place(line.x[k]) <= right),
            ...[left, right].map((edge) => at(line, unplace(edge), true) ?? []).flat(),
          ]);
        const [low, high] = seen.length ? [Math.min(...seen), Math.max(...seen)] : view.slice(2);
        const rim = (high - low) * 0.05 || Math.abs(high) * 0.01 || 1;
        view = [left, right, low - rim, high + rim];
      } else view = first;
      redraw();
    }

    function redraw() {
      const first = gather();
      view ??= first;
      const full = svg.clientWidth || 480;
      const tall = Math.max(230, Math.min(360, full * 0.62));
      [width, height] = [full - LEFT - RIGHT, tall - TOP - BOTTOM];
      svg.setAttribute("viewBox", `0 0 ${full} ${tall}`);
      svg.style.height = `${tall}px`;
      svg.replaceChildren();
      const frame = draw(svg, "g", { transform: `translate(${LEFT} ${TOP})` });
      let free = Infinity; // from the last number back, one wherever there is room
      const marksAcross = log
        ? spec.lines[0].x
        : ticks(view[0], view[1], width / 75).filter(
            (v) => across.kind !== "count" || Number.isInteger(v),
          );
      for (const value of marksAcross.toReversed()) {
        if (x(value) < -1 || x(value) > width + 1) continue;
        draw(frame, "path", { class: "grid", d: `M${x(value)} 0V${height}` });
        if (x(value) > free) continue;
        free = x(value) - 44;
        draw(
          frame,
          "text",
          { x: x(value), y: height + 15, "text-anchor": "middle" },
          say(value, across.kind),
        );
      }
      for (const value of ticks(view[2], view[3], height / 40)) {
        draw(frame, "path", { class: "grid", d: `M0 ${y(value)}H${width}` });
        draw(frame, "text", { x: -6, y: y(value) + 4, "text-anchor": "end" }, say(value, up.kind));
      }
      draw(frame, "text", { x: width / 2, y: height + 33, "text-anchor": "middle" }, across.label);
      draw(frame, "text", { x: -LEFT + 4, y: -9 }, up.label);
      // Cut off at the frame: what is outside a nested svg is not shown.
      plot = draw(frame, "svg", { width, height });
      draw(frame, "rect", { class: "frame", width, height });
      if (spec.kept != null) {
        draw(plot, "path", { class: "chosen", d: `M${x(spec.kept)} 0V${height}` });
      }
      const path = (xs, ys) =>
        xs
          .map((value, k) => `${k ? "L" : "M"}${x(value).toFixed(1)} ${y(ys[k]).toFixed(1)}`)
          .join("");
      for (const line of lines) {
        if (hidden.has(line.name)) continue;
        const look = { stroke: line.colour, "stroke-dasharray": line.dash };
        if (line.n && !line.other) {
          line.x.forEach((value, k) =>
            draw(plot, "path", {
              class: "line",
              d: `M${x(value)} ${y(line.low[k])}V${y(line.high[k])}`,
              stroke: line.colour,
            }),
          );
        } else if (line.low && !line.other) {
          const band = path(
            [...line.x, ...[...line.x].reverse()],
            [...line.high, ...[...line.low].reverse()],
          );
          draw(plot, "path", { class: "band", d: `${band}Z`, fill: line.colour });
        }
        if (weight) draw(plot, "path", { class: "line faint", d: path(line.x, line.raw), ...look });
        const bold = line.colour === "currentColor" ? " bold" : "";
        draw(plot, "path", { class: `line${bold}`, d: path(line.x, line.y), ...look });
        if (spec.snap && !line.guide && line.x.length <= 30) {
          line.x.forEach((value, k) =>
            draw(plot, "circle", { cx: x(value), cy: y(line.y[k]), r: 2.5, fill: line.colour }),
          );
        }
      }
      marks = draw(plot, "g", {});
      list();
      read();
    }

    // One entry a name, of both runs: a press hides its lines.
    function list() {
      const names = [...new Set(lines.map(({ name }) => name))];
      legend.replaceChildren(
        ...names.map((name) => {
          const line = lines.find((each) => each.name === name);
          const key = draw(document.createDocumentFragment(), "svg", {
            width: 22,
            height: 8,
            "aria-hidden": true,
          });
          draw(key, "path", {
            class: "line",
            d: "M0 4H22",
            stroke: line.colour,
            "stroke-dasharray": line.dash,
          });
          const toggle = make("button", { type: "button" }, key, name);
          toggle.setAttribute("aria-pressed", !hidden.has(name));
          toggle.addEventListener("click", () => {
            if (!hidden.delete(name)) hidden.add(name);
            redraw();
            legend.children[names.indexOf(name)].firstChild.focus();
          });
          const item = make("li", {}, toggle, make("span", { className: "value" }));
          item.dataset.name = name;
          return item;
        }),
      );
    }

    // The value of every line at the cursor, of the other run in brackets, beside its name; without
    // a cursor the areas under the lines.
    function read(aloud = false) {
      marks.replaceChildren();
      const heard = [];
      for (const item of legend.children) {
        const { name } = item.dataset;
        const texts = lines
          .filter((line) => line.name === name)
          .map((line) => {
            const k = line.x.indexOf(cursor);
            let text = "";
            if (cursor === null)
              text = line.area == null ? "" : (line.other ? "" : "area ") + line.area.toFixed(4);
            else if (!hidden.has(name)) {
              const value = at(line, cursor, !spec.snap || line.guide);
              if (value !== null) {
                draw(marks, "circle", {
                  cx: x(cursor),
                  cy: y(value),
                  r: 4,
                  fill: line.colour,
                  class: "mark",
                });
                text = say(value, up.kind);
                if (line.low && k >= 0 && !line.other)
                  text += `, ${say(line.low[k], up.kind)} to ${say(line.high[k], up.kind)}`;
                if (line.n && k >= 0) text += ` of ${count(line.n[k])}`;
              }
            }
            return line.other && text ? `(other run ${text})` : text;
          });
        item.lastChild.textContent = texts.filter(Boolean).join(" ");
        if (cursor !== null && item.lastChild.textContent)
          heard.push(`${name} ${item.lastChild.textContent}`);
      }
      where.textContent =
        cursor !== null
          ? `${across.label} ${say(cursor, across.kind)}`
          : spec.kept == null
            ? ""
            : `Dashed: epoch ${spec.kept}, whose weights were kept.`;
      if (cursor !== null) draw(marks, "path", { class: "cursor", d: `M${x(cursor)} 0V${height}` });
      if (aloud)
        spoken.textContent = heard.length ? `${where.textContent}: ${heard.join("; ")}` : "";
    }
    const points = () =>
      [
        ...new Set(
          lines.filter(({ name, guide }) => !hidden.has(name) && !guide).flatMap((line) => line.x),
        ),
      ]
        .filter((value) => place(value) >= view[0] && place(value) <= view[1])
        .sort((a, b) => a - b);
    const nearest = (value) =>
      points().reduce(
        (best, each) =>
          best === null ||
          Math.abs(place(each) - place(value)) < Math.abs(place(best) - place(value))
            ? each
            : best,
        null,
      );
    const inside = (event) => {
      const box = svg.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left - LEFT, event.clientY - box.top - TOP];
      return [
        view[0] + (px / width) * (view[1] - view[0]),
        view[3] - (py / height) * (view[3] - view[2]),
      ];
    };
    const point = (value) => {
      for (const panel of panels) if (panel.figure === figure) panel.read(value);
    };

    svg.addEventListener("pointermove", (event) => {
      const [px, py] = inside(event);
      if (drag) {
        drag.to = [px, py];
        drag.box ??= draw(plot, "rect", { class: "drag" });
        const xs = [drag.from[0], px].map(
          (value) => ((value - view[0]) / (view[1] - view[0])) * width,
        );
        const ys = [drag.from[1], py].map(y);
        const flat = Math.abs(ys[0] - ys[1]) < 12; // along the axis: all of the height
        const box = {
          x: Math.min(...xs),
          width: Math.abs(xs[0] - xs[1]),
          y: flat ? 0 : Math.min(...ys),
          height: flat ? height : Math.abs(ys[0] - ys[1]),
        };
        for (const [name, value] of Object.entries(box)) drag.box.setAttribute(name, value);
        drag.area =
          box.width < 12
            ? null
            : [
                ...[px, drag.from[0]].sort((a, b) => a - b),
                ...(flat ? view.slice(2) : [py, drag.from[1]].sort((a, b) => a - b)),
              ];
      }
      const value = unplace(Math.min(view[1], Math.max(view[0], px)));
      point(spec.snap ? nearest(value) : value);
    });
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button) return; // a finger reads and scrolls
      drag = { from: inside(event) };
      svg.setPointerCapture(event.pointerId);
    });
    const drop = (event) => {
      const area = event.type === "pointerup" && drag?.area;
      drag?.box?.remove();
      drag = null;
      if (!area) return;
      view = area;
      redraw();
    };
    svg.addEventListener("pointerup", drop);
    svg.addEventListener("pointercancel", drop);
    svg.addEventListener("pointerleave", () => !drag && point(null));
    svg.addEventListener("dblclick", () => zoom());
    svg.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const ends = { Home: 0, End: -1 }[event.key];
      if (step || ends !== undefined) {
        const grid = spec.snap
          ? points()
          : Array.from({ length: 101 }, (_, k) => view[0] + (k / 100) * (view[1] - view[0]));
        const k =
          cursor === null
            ? -1
            : grid.indexOf(
                spec.snap
                  ? cursor
                  : grid.reduce((a, b) => (Math.abs(b - cursor) < Math.abs(a - cursor) ? b : a)),
              );
        const next =
          ends !== undefined
            ? grid.at(ends)
            : grid[Math.max(0, Math.min(grid.length - 1, k + step))];
        point(next ?? null);
        read(true);
      } else if (event.key === "+" || event.key === "=") zoom(0.5);
      else if (event.key === "-") zoom(2);
      else if (event.key === "0") zoom();
      else if (event.key === "Escape") point(null);
      else return;
      event.preventDefault();
    });

    panels.push({
      figure,
      redraw,
      again: () => zoom(),
      read: (value) => {
        cursor = value;
        read();
      },
    });
    return element;
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    const specs = charts[figure.dataset.chart];
    if (!specs) continue;
    const live = make("div", { className: "live" });
    figure.append(live);
    figure.classList.add("alive");
    live.append(...specs.map((spec) => Panel(spec, figure)));
    let before = 0;
    const fit = () => {
      if (live.clientWidth === before || !live.clientWidth) return;
      before = live.clientWidth;
      for (const panel of panels) if (panel.figure === figure) panel.redraw();
    };
    fit(); // at once: nothing below moves later
    new ResizeObserver(fit).observe(live);
  }

  // Another run: the page of any other, read by the browser; nothing is sent anywhere.
  const box = $("other-run");
  const [input, off, status] = ["input", "button", "span"].map((tag) => box.querySelector(tag));
  box.hidden = !panels.length;
  const lay = (found, text) => {
    other = found;
    off.hidden = !text.startsWith("Dotted");
    status.textContent = text;
    for (const panel of panels) panel.again();
  };
  const usable = ({ name, x, y, low, high, n }) => {
    const numbers = (values) => values.length === x.length && values.every(Number.isFinite);
    const band = low || high ? [low, high] : [];
    return typeof name === "string" && x.length > 0 && [x, y, ...band, n ?? x].every(numbers);
  };
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    try {
      const page = new DOMParser().parseFromString(await file.text(), "text/html");
      const found = JSON.parse(page.getElementById("curves-data").textContent);
      for (const { title, lines } of Object.values(found).flat()) {
        if (typeof title !== "string" || !lines.every(usable)) throw new TypeError("other lines");
      }
      lay(found, `Dotted: ${file.name}`);
    } catch {
      lay({}, `${file.name} is not a report with curves; choose a report.html.`);
    }
  });
  off.addEventListener("click", () => {
    input.value = "";
    lay({}, "");
  });
}
