// A model: what serves, how it goes, its versions, and how to call it.
import { html, useState, useEffect } from "./vendor/preact-htm.js";
import { useLive, command, history, may } from "./live.js";
import { number, milliseconds, percent, count, State, Ago } from "./words.js";
import { Action, Nothing, Refusal, Rows, Wrong, link } from "./parts.js";
import { Steps } from "./steps.js";
import { Lines } from "./chart.js";
import { asPython, asCurl, useAsked } from "./calling.js";
import { Trying } from "./trying.js";
import { Versions } from "./versions.js";

export function Model({ name }) {
  const live = useLive();
  const model = live.rows.get(`model/${name}`);
  const told = useAsked(() => command("model.show", { model: name }), `${name} ${model?.versions} ${model?.stable} ${model?.rollout?.rollout.state}`);
  if (!model) return html`<${Nothing} kind="model" name=${name} />`;
  const rollout = model.rollout?.rollout;
  const figures = model.figures;
  return html`<h1><bdi>${name}</bdi></h1>
    <${Wrong} list=${model.wrong.map((one) => ({ kind: "model", name, where: name, one }))} />
    <dl class="facts"><dt>serves</dt><dd>${model.stable === null ? "nothing yet" : `version ${model.stable}`}</dd>
      <dt>asked</dt><dd>${number(figures.requests_s ?? 0)} requests/s, ${number(figures.rows_s ?? 0)} rows/s</dd>
      <dt>errors</dt><dd>${figures.requests_s ? percent((figures.failed_requests_s ?? 0) / figures.requests_s) : "–"} of requests</dd>
      <dt>p99</dt><dd>${milliseconds(figures.p99_s)}</dd>
      ${model.project && html`<dt>project</dt><dd><bdi>${model.project}</bdi></dd>`}</dl>
    ${rollout && html`<section aria-labelledby="rollout"><h2 id="rollout"><a href=${link("rollout", name)}>${rollout.ended_s === null ? "Rollout under way" : "Last rollout"}</a>${" "}<span class="dim">version ${rollout.stable ?? "–"} → ${rollout.candidate}</span> <${State} word=${rollout.state} /></h2><${Steps} glance=${model.rollout} small /></section>`}
    <${Past} name=${name} subject="model" figures=${[["requests_s", "requests/s", ""], ["p99_s", "p99", " s"], ["failed_requests_s", "failed requests/s", ""]]} />
    ${model.alarmed > 0 && html`<${Drift} model=${model} />`}
    <${Refusal} refused=${told.refused} />
    ${told.answer && html`<${Versions} model=${model} versions=${told.answer.versions} />
      <${Scale} model=${model} />
      <${Calling} name=${name} versions=${told.answer.versions} stable=${model.stable} ready=${model.apps.filter((app) => app.status === "ready").map((app) => app.version)} />`}
    <p class="dim"><a href=${link("audit", name)}>Who did what with it</a></p>`;
}

// The last hours, asked for once and again each ten seconds: as often as there is a new point.
export function Past({ name, subject, figures }) {
  const [lines, set] = useState(null);
  useEffect(() => {
    const look = () => !document.hidden && history({ subject, name }).then(set, () => null);
    look();
    const timer = setInterval(look, 10_000);
    return () => clearInterval(timer);
  }, [subject, name]);
  if (lines === null) return null;
  const shown = figures.map((figure) => [figure, lines.find((line) => line.figure === figure[0])]).filter(([[figure], line]) => line?.values.some((v) => (figure === "failed_requests_s" ? v > 0 : v !== null)));
  if (!shown.length) return html`<p class="empty">No history yet: a point comes each ten seconds, once it is used.</p>`;
  return html`<section aria-labelledby="past"><h2 id="past">The last hours</h2><div class="charts">${shown.map(
    ([[figure, title, unit], line]) => html`<div class="check" key=${figure}><h3>${title}</h3>
      <${Lines} lines=${[{ name: title, t: line.t, v: line.values }]} unit=${unit} label=${`${title} of ${name} over time`} /></div>`,
  )}</div></section>`;
}

function Drift({ model }) {
  const name = model.name;
  const told = useAsked(() => command("drift.status", { model: name }), `${name} ${model.alarmed}`);
  const alarms = told.answer?.models[0]?.alarms ?? [];
  const columns = [["version", "num"], ["feature"], ["how it has changed"], ["PSI", "num"], ["since"]];
  return html`<section aria-labelledby="drift"><h2 id="drift">Alarms of drift</h2>
    <${Rows} list=${alarms} page=${20} columns=${columns} caption="Alarms of drift" empty="…" row=${(alarm) => html`<tr key=${`${alarm.version} ${alarm.size.side} ${alarm.size.feature}`}>
      <td class="num">${alarm.version}</td><td><bdi>${alarm.size.feature}</bdi> <span class="dim">${alarm.size.side}</span></td><td><bdi>${alarm.words}</bdi></td>
      <td class="num">${number(alarm.size.psi)}</td><td><${Ago} at=${alarm.since_s} /></td></tr>`} />
    <div class="buttons"><${Action} role="operate" model=${name} label="Clear alarms" run=${() => command("drift.clear", { model: name })}
      effect=${`Every alarm of it is cleared. What is off is watched for from now on, and raises another alarm.`} /></div></section>`;
}

function Scale({ model }) {
  const [replicas, set] = useState(null);
  if (!model.by_hand || !may("operate", model.name)) return null;
  const now = model.apps.find((app) => app.role === "stable")?.target_replicas ?? 0;
  const wanted = replicas ?? now;
  return html`<section aria-labelledby="scale"><h2 id="scale">Replicas</h2><div class="buttons"><label for="replicas">of each version that serves</label>
    <input id="replicas" type="number" min="0" max="10000" value=${wanted} onInput=${(e) => set(Number(e.target.value))} />
    <${Action} role="operate" model=${model.name} label="Scale" away=${wanted === now ? "so many are wanted now" : ""}
      run=${() => command("model.scale", { model: model.name, replicas: wanted, seen: now }).then(() => set(null))}
      effect=${[wanted ? `From ${count(now, "replica")} to ${wanted}, of each version that serves: ${wanted > now ? "more start where nodes have room" : "those that go answer what they have taken"}.` : "It goes to sleep: nothing starts when it is called.", `The same in a terminal: \`headrace scale ${model.name} ${wanted}\``]} /></div></section>`;
}

function Calling({ name, versions, stable, ready }) {
  const signature = (versions.find((version) => version.version === stable) ?? versions.at(-1))?.signature;
  if (!signature) return null;
  const tensors = (list) => list.map((spec) => html`<tr key=${spec.name}><td>${list === signature.inputs ? "input" : "output"}</td><td><bdi>${spec.name}</bdi></td><td>${spec.datatype}</td><td>${JSON.stringify(spec.shape)}</td></tr>`);
  return html`<section aria-labelledby="call"><h2 id="call">How to call it</h2>
    <div class="scroll" tabindex="0" role="region" aria-label="Inputs and outputs"><table><caption class="unseen">Inputs and outputs</caption><thead><tr><th scope="col">kind</th><th scope="col">name</th><th scope="col">type</th><th scope="col">shape</th></tr></thead>
      <tbody>${tensors(signature.inputs)}${tensors(signature.outputs)}</tbody></table></div>
    ${stable !== null && html`<h3>Try it</h3><${Trying} name=${name} signature=${signature} versions=${ready} />`}
    <h3>curl</h3><${Copied} text=${asCurl(name, signature)} /><h3>Python</h3><${Copied} text=${asPython(name, signature)} /></section>`;
}

function Copied({ text }) {
  const [copied, say] = useState(false);
  const copy = () => navigator.clipboard.writeText(text).then(() => say(true), () => null);
  return html`<pre tabindex="0"><code>${text}</code></pre><button type="button" class="copy" onClick=${copy}>${copied ? "copied" : "copy"}</button>`;
}
