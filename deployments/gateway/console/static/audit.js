// Alarms that stand, and who did what: over all models that the viewer may see, searched by the controller.
import { html, useState, useEffect, useRef } from "./vendor/preact-htm.js";
import { useLive, of, command } from "./live.js";
import { absolute, Ago } from "./words.js";
import { Action, Lacking, Refusal, Rows, link } from "./parts.js";
import { why } from "./told.js";
import { useAsked } from "./calling.js";

const TYPED_MS = 250; // so long nothing is asked while somebody types
const AGAIN_MS = 10_000;
const WORSE = [["model"], ["version", "num"], ["how right its answers are"], ["since"], [""]];

export function Audit({ name, query }) {
  return html`<h1>Audit and alarms</h1><${Alarms} /><${Search} model=${name} asked=${query.get("words") ?? ""} />`;
}

function Alarms() {
  useLive();
  const alarmed = of("model").filter((model) => model.alarmed > 0);
  const mark = alarmed.map((model) => `${model.name} ${model.alarmed}`).join();
  const told = useAsked(() => Promise.all(alarmed.slice(0, 20).map((model) => command("drift.status", { model: model.name }))), mark);
  const alarms = alarmed.length ? (told.answer ?? []).flatMap((answer) => answer.models).flatMap((one) => one.alarms.map((alarm) => ({ model: one.model, alarm }))) : [];
  const worse = of("model").flatMap((model) => (model.worse ?? []).map((one) => ({ model: model.name, one })));
  const stand = alarmed.length > 0 || worse.length > 0;
  const columns = [["model"], ["version", "num"], ["feature"], ["how it has changed"], ["since"], [""]];
  return html`<section aria-labelledby="alarms"><h2 id="alarms">${stand ? "Alarms that stand" : "No alarm stands"}</h2>
    <${Refusal} refused=${told.refused} />
    ${worse.length > 0 && html`<${Rows} list=${worse} page=${20} columns=${WORSE} caption="Alarms of quality" empty="…" row=${({ model, one }) => html`<tr key=${`${model} ${one.version}`}>
        <th scope="row"><a href=${link("model", model)}><bdi>${model}</bdi></a></th><td class="num">${one.version}</td><td>${one.words}</td><td><${Ago} at=${one.since_s} /></td>
        <td><${Action} role="operate" model=${model} label="Clear" effect="This alarm is cleared. How right its answers are is watched from now on, and raises another one if they are still worse."
          run=${() => command("quality.clear", { model, version: one.version })} /></td></tr>`} />`}
    ${alarmed.length > 0 &&
      html`<${Rows} list=${alarms} page=${20} columns=${columns} caption="Alarms of drift" empty="…" row=${({ model, alarm }) => html`<tr key=${`${model} ${alarm.version} ${alarm.size.side} ${alarm.size.feature}`}>
          <th scope="row"><a href=${link("model", model)}><bdi>${model}</bdi></a></th><td class="num">${alarm.version}</td><td><bdi>${alarm.size.feature}</bdi> <span class="dim">${alarm.size.side}</span></td>
          <td><bdi>${alarm.words}</bdi></td><td><${Ago} at=${alarm.since_s} /></td>
          <td><${Action} role="operate" model=${model} label="Clear" effect="This alarm is cleared. The feature is watched for from now on, and raises another one if it is still off."
            run=${() => command("drift.clear", { model, feature: alarm.size.feature, version: alarm.version })} /></td></tr>`} />
        ${alarmed.slice(0, 1).map((model) => html`<${Lacking} role="operate" model=${model.name} />`)}`}
    ${!stand && html`<p class="dim">An alarm stands when rows are proven to look unlike those that a version was built with, or its answers to be worse, until a person clears it.</p>`}</section>`;
}

function Search({ model, asked }) {
  const [words, type] = useState(asked);
  const [state, set] = useState({ found: null, refused: null, older: false });
  const turn = useRef(0); // what is answered late is not shown
  async function look(before = null) {
    const now = ++turn.current;
    try {
      const found = await command("audit.search", { words, model, before: before?.looked_from ?? null });
      if (now !== turn.current) return;
      set({ found: before ? { ...found, events: [...before.events, ...found.events] } : found, refused: null, older: !!before });
    } catch (refused) {
      set((was) => ({ ...was, refused }));
    }
  }
  useEffect(() => {
    const typed = setTimeout(() => {
      look();
      history.replaceState(null, "", `${model ? link("audit", model) : "#/audit"}${words ? `?words=${encodeURIComponent(words)}` : ""}`);
    }, state.found ? TYPED_MS : 0);
    return () => clearTimeout(typed);
  }, [words, model]);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && !state.older && look(), AGAIN_MS);
    return () => clearInterval(timer);
  }, [words, model, state.older]);
  const { found, refused } = state;
  const models = [...new Set([...of("model").map((one) => one.name), ...(model ? [model] : [])])];
  return html`<section aria-labelledby="audit"><h2 id="audit">Who did what</h2>
    <div class="filter"><label for="of">of</label>
      <select id="of" value=${model} onChange=${(e) => (location.hash = e.target.value ? link("audit", e.target.value) : "#/audit")}><option value="">everything</option>${models.map((each) => html`<option value=${each}>${each}</option>`)}</select>
      <label for="filter">Search</label><input id="filter" type="search" placeholder="who, what, why" value=${words} onInput=${(e) => type(e.target.value)} /></div>
    <${Refusal} refused=${refused} asked />
    ${found && html`<${Events} events=${found.events} searching=${!!words} />
      ${found.looked_from > 0 && html`<p class="more"><button type="button" onClick=${() => look(found)}>Look further back</button>
        <span class="dim">looked at what was done ${found.since_s ? html`until <${Ago} at=${found.since_s} />` : ""}</span></p>`}`}
    ${!found && !refused && html`<p class="empty">…</p>`}</section>`;
}

const COLUMNS = [["when"], ["of"], ["event"], ["by"], ["why, and from which evidence"]];

function Events({ events, searching }) {
  const empty = searching ? "nothing that was looked at has all these words" : "nothing was done yet that you may see";
  return html`<${Rows} list=${events} page=${100} columns=${COLUMNS} caption="Audit" empty=${empty} row=${(event) => html`<tr key=${event.number}>
    <td title=${absolute(event.at_s)}><${Ago} at=${event.at_s} /></td><td><${Concerns} event=${event} /></td><td>${event.event.replaceAll("_", " ")}</td>
    <td><bdi>${event.actor || "–"}</bdi>${event.address && html` <span class="dim">from <bdi>${event.address}</bdi></span>`}</td><td>${why(event.detail, feedOf(event) ? ["kind", "name"] : []).split("\n").map((line) => html`<div><bdi>${line}</bdi></div>`)}</td></tr>`} />`;
}

const feedOf = ({ detail: { kind, name } }) => (kind === "stream" || kind === "batch") && typeof name === "string";

// What it is about, as a link where a page shows it.
function Concerns({ event }) {
  const { kind, name } = event.detail;
  if (feedOf(event)) return html`<a href=${link(kind, name)}>${kind} <bdi>${name}</bdi></a>`;
  if (!event.model) return html`<span class="dim">the cluster</span>`;
  if (event.rollout !== null) return html`<a href=${link("rollout", event.model)}><bdi>${event.model}</bdi> <span class="dim">rollout ${event.rollout}</span></a>`;
  return html`<a href=${link("model", event.model)}><bdi>${event.model}</bdi></a>`;
}
