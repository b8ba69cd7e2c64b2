// Who did what, model by model.
import { html, useState } from "./vendor/preact-htm.js";
import { useLive, of } from "./live.js";
import { link } from "./parts.js";
import { Told } from "./told.js";

export function Audit({ name }) {
  const live = useLive();
  const [filter, set] = useState("");
  const models = of("model").map((model) => model.name);
  const model = name || models[0];
  if (!model) return html`<h1>Audit</h1><p class="empty">No model yet, so nothing was done to one.</p>`;
  const rollout = live.rows.get(`model/${model}`)?.rollout?.rollout;
  return html`<h1>Audit</h1><div class="filter"><label for="of">of</label>
      <select id="of" value=${model} onChange=${(e) => (location.hash = link("audit", e.target.value))}>${models.map((each) => html`<option value=${each}>${each}</option>`)}</select>
      <label for="filter">Filter</label><input id="filter" type="search" placeholder="who, what or why" value=${filter} onInput=${(e) => set(e.target.value)} /></div>
    <${Told} model=${model} filter=${filter} mark=${`${rollout?.id} ${rollout?.state} ${rollout?.step} ${live.rows.get("house")?.table}`} />`;
}
