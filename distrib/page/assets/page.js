// Draws the charts of a run with uPlot. Without it the page's tables say the same.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const color = (number) => style(`--c${number}`);
  const markColors = { stop: "--warn", fault: "--bad", resume: "--c0" };
  const formats = {
    number: (v) => (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6) ? v.toExponential(2) : String(+v.toPrecision(4))),
    integer: (v) => (Math.abs(v) < 1 ? formats.number(v) : Math.round(v).toLocaleString("en")),
    percent: (v) => `${(100 * v).toFixed(2)} %`,
  };
  const axisFormats = {
    ...formats,
    integer: (v) => (Math.abs(v) < 1e9 ? formats.integer(v) : v.toExponential(1)),
    percent: (v) => `${+(100 * v).toFixed(1)} %`,
  };
  const whole = (v) => v.toLocaleString("en");
  const plots = [];

  const everyStep = page.charts.flatMap((chart) => chart.series.flatMap((s) => s.steps));
  const range = [everyStep.reduce((a, b) => Math.min(a, b), Infinity), everyStep.reduce((a, b) => Math.max(a, b), 1)];

  // Each series with its band of lowest and highest values, on the steps of all of them, and from the first step of all
  // charts to the last: that is a series of its own, which is not shown.
  function joined(chart) {
    const tables = chart.series.map((s) => (s.low.length ? [s.steps, s.mean, s.low, s.high] : [s.steps, s.mean]));
    return uPlot.join([...tables, [range, [null, null]]]);
  }

  function plot(element, chart) {
    const series = [{}], bands = [], shown = [];
    chart.series.forEach((s) => {
      shown.push({ ...s, index: series.length });
      series.push({
        stroke: () => color(s.color), width: 1.75, spanGaps: true,
        paths: s.dots === "alone" ? () => null : undefined,
        points: s.dots !== "none" ? { show: true, size: 7, fill: () => color(s.color) } : undefined,
      });
      if (s.low.length) {
        for (let i = 0; i < 2; i++) series.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
        bands.push({ series: [series.length - 1, series.length - 2], fill: () => `color-mix(in srgb, ${color(s.color)} 22%, transparent)` });
      }
    });
    series.push({ show: false });
    const axis = { stroke: () => style("--quiet"), grid: { stroke: () => style("--line"), width: 1 }, ticks: { stroke: () => style("--line"), width: 1 } };
    const output = element.parentElement.querySelector("output");
    const u = new uPlot({
      width: element.clientWidth, height: element.clientHeight, series, bands,
      scales: { x: { time: false }, y: chart.logarithmic ? { distr: 3, log: 2 } : {} },
      legend: { show: false },
      axes: [
        { ...axis, size: 32, label: "step", labelSize: 18, labelGap: 0, labelFont: "12px system-ui, sans-serif", incrs: [0, 1, 2, 3, 4, 5, 6, 7, 8].flatMap((e) => [1, 2, 5].map((n) => n * 10 ** e)),
          values: (_, ticks) => ticks.map(whole) },
        { ...axis, size: room, values: (_, ticks) => ticks.map((v) => (v === null ? "" : axisFormats[chart.format](v))) },
      ],
      cursor: { sync: { key: "steps", scales: ["x", null] }, drag: { x: true, y: false }, y: false, points: { size: 7 } },
      hooks: { draw: [(self) => drawMarks(self, chart)], setCursor: [(self) => { output.textContent = reading(self, chart, shown); }] },
    }, joined(chart), element);
    plots.push(u);
    new ResizeObserver(() => u.setSize({ width: element.clientWidth, height: element.clientHeight })).observe(element);
    element.addEventListener("keydown", (event) => key(event, u, output));
    element.addEventListener("blur", () => output.removeAttribute("aria-live"));
  }

  // The width that the labels of an axis take. A later cycle of the layout keeps it, or it would never end.
  function room(u, labels, number, cycle) {
    const axis = u.axes[number];
    if (cycle > 1) return axis._size;
    u.ctx.font = axis.font[0];
    return 20 + Math.max(30, ...(labels ?? []).map((label) => u.ctx.measureText(label).width / devicePixelRatio));
  }

  // Stops, resumes and faults as upright lines, and the limit of clipping as a level one.
  function drawMarks(u, chart) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    const line = (x0, y0, x1, y1, stroke) => { ctx.strokeStyle = stroke; ctx.beginPath(); ctx.moveTo(x0, y0); ctx.lineTo(x1, y1); ctx.stroke(); };
    for (const mark of page.marks) {
      if (mark.step < u.scales.x.min || mark.step > u.scales.x.max) continue;
      const x = u.valToPos(mark.step, "x", true);
      line(x, bbox.top, x, bbox.top + bbox.height, style(markColors[mark.kind]));
    }
    if (chart.limit !== null && chart.limit >= u.scales.y.min && chart.limit <= u.scales.y.max) {
      const y = u.valToPos(chart.limit, "y", true);
      line(bbox.left, y, bbox.left + bbox.width, y, style("--limit"));
    }
    ctx.restore();
  }

  // What stands at the cursor, in words: the last value of each series up to there, and what happened until its next point.
  function reading(u, chart, shown) {
    const at = u.cursor.idx;
    if (at === null || at === undefined || u.cursor.left < 0) return "";
    const step = u.data[0][at], format = formats[chart.format];
    const epoch = page.steps_per_epoch ? `, epoch ${Math.ceil(step / page.steps_per_epoch)}` : "";
    const values = shown.map((s) => {
      let i = at;
      while (i >= 0 && s.dots !== "alone" && (u.data[s.index][i] === null || u.data[s.index][i] === undefined)) i--;
      if (i < 0 || u.data[s.index][i] === null || u.data[s.index][i] === undefined) return null;
      return `${s.label} ${format(u.data[s.index][i])}${spread(s, s.steps.indexOf(u.data[0][i]), format)}`;
    });
    const next = u.data[0][at + 1] ?? Infinity;
    const marks = page.marks.filter((m) => m.step >= step && m.step < next).map((m) => (m.step === step ? m.text : `step ${whole(m.step)}: ${m.text}`));
    return [`step ${whole(step)}${epoch}`, ...values.filter((v) => v !== null), ...marks].join("; ");
  }

  // Of a point that stands for several steps: from the lowest to the highest value, and which steps it is the mean of.
  function spread(s, i, format) {
    if (!s.until.length || s.until[i] === s.steps[i]) return "";
    const range = s.low.length ? ` (${format(s.low[i])} to ${format(s.high[i])})` : "";
    return `${range}, mean of steps ${whole(s.steps[i])} to ${whole(s.until[i])}`;
  }

  function zoom(factor, center) {
    for (const u of plots) {
      const { min, max } = u.scales.x, middle = center ?? (min + max) / 2;
      const [first, last] = range;
      const half = ((max - min) * factor) / 2;
      u.setScale("x", { min: Math.max(first, middle - half), max: Math.min(last, middle + half) });
    }
  }

  function showAll() {
    for (const u of plots) u.setScale("x", { min: range[0], max: range[1] });
  }

  function key(event, u, output) {
    const last = u.data[0].length - 1, at = u.cursor.idx ?? 0, far = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: at - far, ArrowRight: at + far, Home: 0, End: last }[event.key];
    if (to !== undefined) {
      const index = Math.min(last, Math.max(0, to));
      output.setAttribute("aria-live", "polite");
      u.setCursor({ left: u.valToPos(u.data[0][index], "x"), top: u.over.clientHeight / 2 }, true, true); // and in all other charts
    } else if (event.key === "+" || event.key === "=") zoom(0.5, u.data[0][at]);
    else if (event.key === "-") zoom(2, u.data[0][at]);
    else if (event.key === "0" || event.key === "Escape") showAll();
    else return;
    event.preventDefault();
  }

  for (const chart of page.charts) plot(document.querySelector(`[data-chart="${chart.name}"]`), chart);
  const tools = document.querySelector(".tools");
  if (tools) {
    tools.hidden = false;
    document.getElementById("closer").addEventListener("click", () => zoom(0.5));
    document.getElementById("wider").addEventListener("click", () => zoom(2));
    document.getElementById("all").addEventListener("click", showAll);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((u) => u.redraw(false)));

  const follow = document.getElementById("follow");
  if (follow) {
    follow.checked = location.hash === "#follow";
    follow.addEventListener("change", () => { location.hash = follow.checked ? "follow" : ""; });
    setInterval(() => follow.checked && location.reload(), 30000);
  }
})();
