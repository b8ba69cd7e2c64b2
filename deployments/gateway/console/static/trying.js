// A request to a model, built in the page and sent as whoever is logged in.
import { html, useState, useRef, useEffect } from "./vendor/preact-htm.js";
import { may, post } from "./live.js";
import { milliseconds } from "./words.js";
import { Lacking, Refusal } from "./parts.js";
import { asBody } from "./calling.js";
import { Explained } from "./explained.js";

const SIDE = 28;
const NOTHING = { busy: false, answer: null, why: null, refused: null, took_s: null };

export function Trying({ name, signature, versions }) {
  const [body, write] = useState(() => JSON.stringify(asBody(signature), null, 1));
  const [version, choose] = useState("");
  const [state, set] = useState(NOTHING);
  const image = pictured(signature);
  async function ask(model, as) {
    set({ ...state, busy: true });
    const begun = performance.now();
    try {
      const answer = await post(`models/${model}${version && `/versions/${version}`}/infer`, JSON.parse(body));
      set({ ...NOTHING, [as]: answer, took_s: (performance.now() - begun) / 1000 });
    } catch (refused) {
      set({ ...NOTHING, refused });
    }
  }
  const send = (event) => (event.preventDefault(), ask(name, "answer"));
  const allowed = may("score", name);
  return html`<form class="try" onSubmit=${send}>
    ${image && html`<${Drawing} drawn=${(data) => write(JSON.stringify({ inputs: [{ ...image, data }] }))} />`}
    <label for="body">Request</label><textarea id="body" rows="7" spellcheck=${false} value=${body} onInput=${(e) => write(e.target.value)}></textarea>
    <div class="buttons"><label for="version">to</label><select id="version" value=${version} onChange=${(e) => choose(e.target.value)}>
        <option value="">whichever the split gives</option>${versions.map((number) => html`<option value=${number}>version ${number}</option>`)}</select>
      <button class="strong" disabled=${state.busy || !allowed}>Send</button>
      <button type="button" disabled=${state.busy || !allowed} onClick=${() => ask(`${name}.explain`, "why")}>Explain</button></div>
    <${Lacking} role="score" model=${name} />
    <p class="dim">What is sent is a request like any other: while a rollout is under way it is evidence too. What is explained is none.</p>
    <div aria-live="polite"><${Refusal} refused=${state.refused} />
      ${state.answer && html`<p>version <b>${state.answer.model_version}</b> answered within ${milliseconds(state.took_s)}</p>
        ${state.answer.outputs.map((output) => html`<${Output} output=${output} key=${output.name} />`)}`}
      ${state.why && html`<${Explained} why=${state.why} took_s=${state.took_s} />`}</div></form>`;
}

// Of a few numbers the largest is marked: for most models that is the class.
function Output({ output }) {
  const few = output.data.length <= 20 && output.data.every((each) => typeof each === "number");
  const top = few ? Math.max(...output.data) : null;
  if (!few) return html`<h3><bdi>${output.name}</bdi></h3><pre tabindex="0"><code>${JSON.stringify(output.data).slice(0, 4000)}</code></pre>`;
  return html`<h3><bdi>${output.name}</bdi></h3><ol class="outputs" start="0">${output.data.map(
    (value, i) => html`<li class=${value === top ? "top" : ""}><span class="dim">${i}</span> ${Number(value.toPrecision(3))}</li>`,
  )}</ol>`;
}

// One image of 28 by 28, in whichever shape: it can be drawn.
function pictured(signature) {
  const [spec, more] = signature.inputs;
  const shape = spec.shape.map((axis) => Math.max(axis, 1));
  const count = shape.reduce((all, axis) => all * axis, 1);
  return !more && count === SIDE * SIDE && spec.datatype.startsWith("FP") ? { name: spec.name, datatype: spec.datatype, shape } : null;
}

function Drawing({ drawn }) {
  const place = useRef();
  const ink = useRef(new Float32Array(SIDE * SIDE));
  const paint = () => {
    const paper = place.current.getContext("2d");
    const image = paper.createImageData(SIDE, SIDE);
    ink.current.forEach((value, i) => image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
    paper.putImageData(image, 0, 0);
  };
  useEffect(paint, []);
  function draw(event) {
    if (!(event.buttons & 1)) return;
    const box = place.current.getBoundingClientRect();
    const [x, y] = [(SIDE * (event.clientX - box.left)) / box.width, (SIDE * (event.clientY - box.top)) / box.height];
    for (let row = 0; row < SIDE; row++)
      for (let column = 0; column < SIDE; column++) {
        const far = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        const at = row * SIDE + column;
        ink.current[at] = Math.max(ink.current[at], Math.min(1, Math.max(0, 1.9 - far)));
      }
    paint();
    drawn([...ink.current].map((value) => Number(value.toFixed(3))));
  }
  function clear() {
    ink.current.fill(0);
    paint();
  }
  return html`<figure class="drawing"><canvas ref=${place} width=${SIDE} height=${SIDE} aria-label="Draw a digit here" role="img"
      onPointerDown=${draw} onPointerMove=${draw}></canvas>
    <figcaption>Draw a digit; it becomes the request. <button type="button" onClick=${clear}>Clear</button></figcaption></figure>`;
}
