// Lines over time, drawn by uPlot in the page's own colours.
import { html, useEffect, useRef } from "./vendor/preact-htm.js";

const HEIGHT = 150;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const short = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });

function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const axis = (more) => ({ stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui", ...more });



const ink = (name, more = {}) => ({ stroke: colour(name), width: 1.5, points: { show: false }, ...more });

function timeAxis() {
  return axis({ values: (_, splits) => splits.map((at, i) => (splits[1] - splits[0] < 60 ? clock : short).format(at * 1000)), space: 70, size: 30 });
}

// Makes the chart once, and gives it new data as they come; anew where the colours change.
function Plot({ make, data, label }) {
  const place = useRef();
  const plot = useRef(null);
  useEffect(() => {
    const anew = () => {
      plot.current?.destroy();
      const width = place.current.clientWidth || 300;
      plot.current = new uPlot({ width, height: HEIGHT, ms: 1e-3, cursor: { y: false, points: { size: 5 } }, ...make() }, data, place.current);
    };
    anew();
    const sized = new ResizeObserver(() => plot.current.setSize({ width: place.current.clientWidth || 300, height: HEIGHT }));
    sized.observe(place.current);
    const turned = matchMedia("(prefers-color-scheme: dark)");
    turned.addEventListener("change", anew);
    addEventListener("theme", anew);
    return () => {
      sized.disconnect();
      turned.removeEventListener("change", anew);
      removeEventListener("theme", anew);
      plot.current.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => plot.current?.setData(data));
  return html`<div class="chart" ref=${place} role="img" aria-label=${label}></div>`;
}

// A check: in which interval the difference lies, over time, and how much of it is allowed.
export function Interval({ line, margin, label }) {
  const points = (share) => (share === null ? null : 100 * share);
  const make = () => ({
    legend: { show: false },
    scales: { y: { range: () => spread(line, margin).map(points) } },
    axes: [timeAxis(), axis({ size: 56, space: 20, values: (_, splits) => splits.map((v) => `${Number(v.toPrecision(3))} %`) })],
    series: [{}, ink("accent"), ink("accent"), ink("bad", { dash: [6, 4] }), ink("dim", { width: 1 })],
    bands: [{ series: [1, 2], fill: colour("band") }],
  });
  const flat = (value) => line.t.map(() => value);
  const data = [line.t, line.high.map(points), line.low.map(points), flat(points(margin)), flat(0)];
  return html`<${Plot} make=${make} data=${data} label=${label} />`;
}

// What matters is how it stands about the margin: the first, wide intervals may lie outside.
function spread(line, margin) {
  const low = line.low.at(-1) ?? -margin,
    high = line.high.at(-1) ?? margin;
  return [Math.min(-margin, 1.5 * low), Math.max(2 * margin, 1.5 * high)];
}

export function Lines({ lines, label, unit = "" }) {
  const make = () => ({
    legend: { show: lines.length > 1, live: false },
    scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(high ?? 1, 1e-9) * 1.1] } },
    axes: [timeAxis(), axis({ size: 62, space: 24, values: (_, splits) => splits.map((v) => `${Number(v.toPrecision(3)).toLocaleString("en")}${unit}`) })],
    series: [{}, ...lines.map(({ name, of = "accent" }) => ink(of, { label: name }))],
  });
  const data = [lines[0].t, ...lines.map(({ v }) => v)];
  return html`<${Plot} make=${make} data=${data} label=${label} />`;
}
