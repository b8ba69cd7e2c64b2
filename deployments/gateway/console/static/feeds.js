// A stream: how far it is, why it stands, and what may be done about it.
import { html, useState, useEffect } from "./vendor/preact-htm.js";
import { useLive, command } from "./live.js";
import { number, State } from "./words.js";
import { Action, Command, Document, Lacking, Nothing, Rows, Wrong, link } from "./parts.js";
import { Past } from "./model.js";
import { behind } from "./overview.js";
import { useAsked } from "./calling.js";

// What only this one tells, such as its workers: asked for while it is looked at.
function useDetail(kind, name, every_ms) {
  const [beat, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && again((n) => n + 1), every_ms);
    return () => clearInterval(timer);
  }, [kind, name]);
  return useAsked(() => command("feed.show", { kind, name }), `${kind} ${name} ${beat}`);
}

export function Stream({ name }) {
  const live = useLive();
  const row = live.rows.get(`stream/${name}`);
  const told = useDetail("stream", name, 3000);
  if (!row) return html`<${Nothing} kind="stream" name=${name} />`;
  const asks = { role: "operate", model: row.model };
  const paused = row.wanted === "paused";
  const want = (what) => () => command(`feed.${what}`, { kind: "stream", name });
  return html`<h1>Stream <bdi>${name}</bdi> <${State} word=${paused ? "paused" : row.status} /></h1>
    <${Wrong} list=${row.wrong.map((one) => ({ kind: "stream", name, where: name, one }))} />
    <dl class="facts"><dt>scores with</dt><dd><a href=${link("model", row.model)}><bdi>${row.model}</bdi></a></dd>
      <dt>rate</dt><dd>${number(row.figures.records_s ?? 0)} records/s</dd>
      <dt>in wait</dt><dd>${number(row.figures.lag_records)} records, ${behind(row.figures)} behind</dd>
      ${row.message && html`<dt>says</dt><dd><bdi>${row.message}</bdi></dd>`}</dl>
    <div class="buttons">${paused
      ? html`<${Action} ...${asks} label="Resume" run=${want("resume")} effect="It goes on from where it stopped: what waits in its topic is scored now." />`
      : html`<${Action} ...${asks} label="Pause" run=${want("pause")} effect="It commits what it has taken, and stops. What comes meanwhile waits in its topic; nothing is lost as long as the topic keeps it." />`}</div>
    <${Lacking} ...${asks} />
    <${Past} name=${name} subject="stream" figures=${[["lag_records", "records in wait", ""], ["records_s", "records/s", ""]]} />
    ${told.answer && html`<${Workers} workers=${told.answer.workers} /><${Document} spec=${told.answer.spec} />`}
    <p class="dim">Dead letters are scored again by <${Command} text=${`headrace stream replay ${name} --dead-letters`} />, and it is moved by <${Command} text=${`headrace stream seek ${name} --to earliest`} /></p>`;
}

function Workers({ workers }) {
  const columns = [["worker", "num"], ["phase"], ["partitions"], ["in wait", "num"], ["records/s", "num"], ["dead", "num"], ["retries", "num"], ["says"]];
  const all = (lag) => Object.values(lag ?? {}).reduce((sum, each) => sum + each, 0);
  return html`<section aria-labelledby="workers"><h2 id="workers">Workers</h2>
    <${Rows} list=${workers} columns=${columns} caption="Workers" empty="none runs" row=${(worker) => html`<tr key=${worker.replica}>
      <th scope="row" class="num">${worker.rank}</th><td>${worker.phase}</td><td>${(worker.partitions ?? []).map((at) => html`<span class="part">${at}<span class="dim"> ${number(worker.lag?.[at])}</span></span> `)}</td>
      <td class="num">${number(all(worker.lag))}</td><td class="num">${number(worker.rows_s)}</td><td class="num">${number(worker.rows_dead)}</td><td class="num">${number(worker.retries)}</td>
      <td><bdi>${[worker.message, worker.stuck_cause].filter(Boolean).join("; ")}</bdi></td></tr>`} /></section>`;
}
