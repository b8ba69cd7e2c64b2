// Why a row was answered as it was: how much each feature added to the answer, the strongest first; an image as a picture.
import { html, useRef, useEffect } from "./vendor/preact-htm.js";
import { number, milliseconds } from "./words.js";
import { Rows } from "./parts.js";

const STRONGEST = 12;
const ATTRIBUTIONS = "attributions."; // then the input's name

export function Explained({ why, took_s }) {
  const of = (name) => why.outputs.find((output) => output.name === name)?.data[0];
  const attributions = why.outputs.filter((output) => output.name.startsWith(ATTRIBUTIONS));
  const parts = attributions.flatMap(partsOf);
  const strongest = [...parts].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, STRONGEST);
  const far = Math.max(...strongest.map((part) => Math.abs(part.value)), 1e-12);
  const { method, output, scale, why: rough } = why.parameters ?? {};
  const unit = scale === "log_odds" ? "log-odds of " : "";
  return html`<h3>Why <span class="dim">version ${why.model_version}, by ${method}, within ${milliseconds(took_s)}</span></h3>
    <p>${unit}<bdi>${output}</bdi>${of("label") ? html` for class <bdi>${of("label")}</bdi>` : ""}: <b>${number(of("answer"))}</b>; the mean over the rows that it is compared with is ${number(of("baseline"))}. The parts add up to the rest${of("error") ? html`, but for ${number(of("error"))}` : ""}.</p>
    ${of("too_rough") && html`<p class="refused">Too rough to rely on${rough ? html`: <bdi>${rough}</bdi>` : ""}.</p>`}
    ${attributions.map((one) => html`<${Heat} output=${one} key=${one.name} />`)}
    <${Rows} list=${strongest} columns=${[["feature"], [""], ["part", "num"]]} caption="What added most to this answer" empty="" row=${(part) => html`<tr key=${part.name}><th scope="row"><bdi>${part.name}</bdi></th>
      <td><${Bar} share=${part.value / far} /></td><td class="num">${part.value > 0 ? "+" : ""}${number(part.value)}</td></tr>`} />
    ${parts.length > strongest.length && html`<p class="dim">${(parts.length - strongest.length).toLocaleString("en")} weaker features are not shown.</p>`}`;
}

function Bar({ share }) {
  const wide = Math.abs(50 * share).toFixed(1);
  return html`<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class=${share < 0 ? "minus" : ""} x=${share < 0 ? (50 - wide).toFixed(1) : 50} y="1" width=${wide} height="8" /><path d="M50 0V10" /></svg>`;
}

function partsOf(output) {
  const name = output.name.slice(ATTRIBUTIONS.length);
  const shape = output.shape.slice(1);
  const size = shape.reduce((all, axis) => all * axis, 1);
  return output.data.slice(0, size).map((value, at) => ({ name: size === 1 ? name : `${name}[${placeOf(at, shape)}]`, value }));
}

function placeOf(at, shape) {
  const place = [];
  for (const axis of [...shape].reverse()) {
    place.unshift(at % axis);
    at = Math.floor(at / axis);
  }
  return place.join(",");
}

// One channel, about square: drawn where it lies. What adds is one colour, what takes away the other; the table has the numbers.
function Heat({ output }) {
  const place = useRef();
  const [height, width] = output.shape.slice(-2);
  const flat = output.shape.slice(1).reduce((all, axis) => all * axis, 1);
  const side = output.shape.length === 2 && Number.isInteger(Math.sqrt(flat)) && flat >= 64 ? Math.sqrt(flat) : 0;
  const [rows, columns] = side ? [side, side] : output.shape.length > 2 && height * width === flat && height > 7 && width > 7 ? [height, width] : [0, 0];
  useEffect(() => {
    if (!rows) return;
    const far = Math.max(...output.data.map(Math.abs), 1e-12);
    const paper = place.current.getContext("2d");
    const image = paper.createImageData(columns, rows);
    output.data.slice(0, flat).forEach((value, i) => {
      const [red, green, blue] = value > 0 ? [14, 140, 150] : [200, 60, 50];
      image.data.set([red, green, blue, Math.round(255 * Math.min(1, Math.abs(value) / far))], 4 * i);
    });
    paper.putImageData(image, 0, 0);
  }, [output]);
  if (!rows) return null;
  return html`<figure class="drawing"><canvas ref=${place} width=${columns} height=${rows} role="img" aria-label=${`Where ${output.name.slice(ATTRIBUTIONS.length)} adds to the answer, and where it takes away`}></canvas>
    <figcaption class="dim">Blue-green adds to the answer, red takes away.</figcaption></figure>`;
}
