// A batch: how far it is, why it stands, and what may be done about it.
import { html } from "./vendor/preact-htm.js";
import { useLive, command } from "./live.js";
import { number, span, State, Ago, absolute, Words } from "./words.js";
import { Action, Command, Lacking, Rows, Wrong, link } from "./parts.js";
import { useAsked } from "./calling.js";

function Nothing({ kind, name }) {
  return html`<h1><bdi>${name}</bdi></h1><p class="empty">There is no such ${kind}, or you may not see it. <a href="#/">Overview</a></p>`;
}

function Document({ spec }) {
  return html`<details><summary>As it was applied</summary><pre tabindex="0"><code>${JSON.stringify(spec, null, 2)}</code></pre></details>`;
}

export function Batch({ name }) {
  const live = useLive();
  const row = live.rows.get(`batch/${name}`);
  const told = useAsked(() => command("feed.show", { kind: "batch", name }), `${name} ${row?.wanted} ${row?.next_s} ${row?.last?.state} ${row?.last?.at_s}`);
  if (!row) return html`<${Nothing} kind="batch" name=${name} />`;
  const asks = { role: "operate", model: row.model };
  const paused = row.wanted === "paused";
  const want = (what) => () => command(`feed.${what}`, { kind: "batch", name });
  const schedule = told.answer?.schedule;
  return html`<h1>Batch <bdi>${name}</bdi> <${State} word=${paused ? "paused" : (row.last?.state ?? "ready")} /></h1>
    <${Wrong} list=${row.wrong.map((one) => ({ kind: "batch", name, where: name, one }))} />
    <dl class="facts"><dt>scores with</dt><dd><a href=${link("model", row.model)}><bdi>${row.model}</bdi></a></dd>
      <dt>runs</dt><dd>${row.cron ? html`<code>${row.cron}</code> in ${row.timezone}` : "by hand"}</dd>
      ${schedule?.next_s.length > 0 && html`<dt>next</dt><dd>${schedule.next_s.map((at) => html`<div>${absolute(at)} <span class="dim"><${Ago} at=${at} /></span></div>`)}</dd>`}
      <dt>rows so far</dt><dd>${number(row.figures.rows_scored ?? 0)} scored, ${number(row.figures.rows_quarantined ?? 0)} quarantined <span class="dim">since the controller began</span></dd></dl>
    ${row.cron && html`<div class="buttons">${paused
      ? html`<${Action} ...${asks} label="Resume schedule" run=${want("resume")} effect="It runs by its schedule from now on. What it left out meanwhile is not made up for." />`
      : html`<${Action} ...${asks} label="Pause schedule" run=${want("pause")} effect="No run begins until it is resumed. One that is under way goes on." />`}</div><${Lacking} ...${asks} />`}
    ${schedule && html`<section aria-labelledby="fires"><h2 id="fires">Runs by schedule</h2>
      <${Rows} list=${[...schedule.fires].reverse()} page=${50} columns=${[["due"], ["state"], ["tries", "num"], ["took", "num"], ["why"]]} caption="Runs" empty="none yet" row=${(fire) => html`<tr key=${`${fire.at_s}`}>
        <td>${absolute(fire.at_s)}</td><td><${State} word=${fire.state} /></td><td class="num">${fire.attempt + 1}</td><td class="num">${fire.ended_s ? span(fire.ended_s - fire.at_s) : "–"}</td><td><bdi>${fire.reason}</bdi></td></tr>`} /></section>`}
    ${told.refused && html`<p class="refused">${told.refused.message}. <${Words} text=${told.refused.remedy} /></p>`}
    ${told.answer && html`<${Document} spec=${told.answer.spec} />`}
    <p class="dim">Runs by hand, and how far each is: <${Command} text=${`headrace batch run ${name}`} /> <${Command} text=${`headrace batch status ${name}`} /></p>`;
}
