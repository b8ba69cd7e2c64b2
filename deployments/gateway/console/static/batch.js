// A batch: how far its run is, what it quarantined, when it runs next, and what may be done about it.
import { html, useState, useEffect } from "./vendor/preact-htm.js";
import { useLive, command, may, post } from "./live.js";
import { number, bytes, count, span, State, Ago, Words, absolute } from "./words.js";
import { Action, Command, Document, Lacking, Nothing, Refusal, Rows, Wrong, link } from "./parts.js";
import { useAsked } from "./calling.js";

const OPEN = new Set(["waiting", "submitted", "running"]);
const BUSY_MS = 1500; // as often as a run is looked at that goes on
const IDLE_MS = 10_000;

export function Batch({ name }) {
  const live = useLive();
  const row = live.rows.get(`batch/${name}`);
  const last = row?.last;
  const mark = `${name} ${row?.wanted} ${row?.next_s} ${last?.job} ${last?.state} ${last?.reason}`;
  const told = useAsked(() => command("feed.show", { kind: "batch", name }), mark);
  const runs = useRuns(name, mark, last && OPEN.has(last.state));
  if (!row) return html`<${Nothing} kind="batch" name=${name} />`;
  const paused = row.wanted === "paused";
  const list = runs.answer && known(runs.answer.runs, last);
  const newest = list?.[0];
  const schedule = told.answer?.schedule;
  const word = last && OPEN.has(last.state) ? last.state : newest?.state === "running" ? "running" : paused ? "paused" : (newest?.state ?? last?.state ?? "ready");
  return html`<h1>Batch <bdi>${name}</bdi> <${State} word=${word} /></h1>
    <${Wrong} list=${row.wrong.map((one) => ({ kind: "batch", name, where: name, one }))} />
    <dl class="facts"><dt>scores with</dt><dd><a href=${link("model", row.model)}><bdi>${row.model}</bdi></a></dd>
      <dt>runs</dt><dd>${row.cron ? html`<code>${row.cron}</code> in ${row.timezone}${paused ? ", paused" : ""}` : "by hand"}</dd>
      ${schedule?.next_s.length > 0 && html`<dt>next</dt><dd>${schedule.next_s.map((at) => html`<div key=${at}>${absolute(at)} <span class="dim"><${Ago} at=${at} /></span></div>`)}</dd>`}
      ${told.answer && html`<dt>writes to</dt><dd><bdi>${told.answer.spec.output?.path}</bdi></dd>`}</dl>
    ${told.answer && html`<${Buttons} row=${row} spec=${told.answer.spec} newest=${newest} />`}
    ${newest && newest.state !== "published" && html`<${Progress} run=${newest} />`}
    ${[told, runs].map(({ refused }) => html`<${Refusal} refused=${refused} />`)}
    ${list && html`<${Runs} list=${list} name=${name} model=${row.model} />`}
    ${told.answer && html`<${Fires} name=${name} schedule=${schedule} by_hand=${told.answer.by_hand} /><${Document} spec=${told.answer.spec} />`}
    <p class="dim">The same in a terminal: <${Command} text=${`headrace batch status ${name}`} /></p>`;
}

// Whether a run in an object store goes on its ledger does not tell; the cluster knows of its own.
function known([newest, ...older], last) {
  if (!newest) return [];
  const goes = newest.held === null && newest.state === "unfinished" && last && OPEN.has(last.state);
  return [goes ? { ...newest, state: "running" } : newest, ...older];
}

// Its runs, from the ledgers beside its output: often while one goes on.
function useRuns(name, mark, open) {
  const [state, set] = useState({ answer: null, refused: null });
  useEffect(() => {
    let there = true, timer;
    async function look() {
      let busy = open;
      if (!document.hidden)
        await post(`batches/${encodeURIComponent(name)}/runs`, {}).then(
          (answer) => {
            busy ||= answer.runs[0]?.state === "running";
            if (there) set({ answer, refused: null });
          },
          (refused) => there && set((before) => ({ answer: before.answer, refused })),
        );
      if (there) timer = setTimeout(look, busy ? BUSY_MS : IDLE_MS);
    }
    look();
    return () => {
      there = false;
      clearTimeout(timer);
    };
  }, [mark, open]);
  return state;
}

function Buttons({ row, spec, newest }) {
  const { name, last } = row;
  const [day, choose] = useState("");
  const asks = { role: "operate", model: row.model };
  const seen = { job: last?.job ?? "", state: last?.state ?? "" };
  const open = last && OPEN.has(last.state);
  const elsewhere = !open && newest?.state === "running";
  const away = open ? `its run ${last.job} is ${last.state}` : elsewhere ? "a terminal runs it just now" : "";
  const left = newest?.state === "unfinished" || newest?.state === "publishing" ? newest : null;
  const dated = [spec.input?.path].flat().some((path) => String(path).includes("{as_of}"));
  const paths = [spec.input?.path].flat().join(", ");
  const mode = spec.output?.mode === "append" ? "its rows are added to" : "they take the place of what is in";
  const want = (what) => () => command(`feed.${what}`, { kind: "batch", name, seen: row.wanted });
  const begin = () => command("batch.run", { name, seen, ...(day && { as_of: day }), ...(left && { gives_up: left.run_id }) });
  return html`<div class="buttons">
      ${dated && html`<label>for the day <input type="date" value=${day} onInput=${(e) => choose(e.target.value)} /></label>`}
      <${Action} ...${asks} label="Run" away=${away} run=${begin} effect=${[
        left && `Run ${left.run_id} was left unfinished, with ${left.units_done} of ${count(left.units, "unit")} done: it is given up.`,
        `The cluster scores all rows of ${paths}${dated ? ` for ${day || "today"}` : ""} with ${spec.version ? `version ${spec.version}` : "the stable version"} of ${row.model}. Once all are scored, ${mode} ${spec.output?.path}.`,
        `It is tried once. The same in a terminal: \`headrace batch run ${name} --detach${left ? " --fresh" : ""}\``,
      ].filter(Boolean)} />
      ${left && html`<${Action} ...${asks} label="Resume run" away=${away} run=${() => command("batch.resume", { name, seen, run: left.run_id })}
        effect=${`Run ${left.run_id} goes on: the ${count(left.units_done, "unit")} of ${left.units} that are done are kept, and it scores with version ${left.version}, with which it began.`} />`}
      <${Action} ...${asks} label="Cancel run" kind="danger" away=${open ? "" : elsewhere ? "a terminal runs it: end it there" : "the cluster runs nothing of it"} run=${() => command("batch.cancel", { name, seen })}
        effect=${[`Job ${last?.job} is ended. Readers go on seeing the run before it.`, "Units that are done are kept: the run can be resumed, or given up by the next one."]} />
      ${row.cron && (row.wanted === "paused"
        ? html`<${Action} ...${asks} label="Resume schedule" run=${want("resume")} effect="It runs by its schedule from now on. What it left out meanwhile is not made up for." />`
        : html`<${Action} ...${asks} label="Pause schedule" run=${want("pause")} effect="No run begins by its schedule until it is resumed. One that is under way goes on." />`)}</div>
    <${Lacking} ...${asks} />`;
}

function Progress({ run }) {
  const done = run.rows ? run.rows_done / run.rows : 0;
  return html`<section aria-labelledby="going"><h2 id="going">${run.state === "unfinished" ? "Left unfinished" : "Under way"} <span class="dim">${run.run_id}</span></h2>
    <div class="check"><progress max="1" value=${done} aria-label=${`Rows done of run ${run.run_id}`}></progress>
    <dl class="facts"><dt>units</dt><dd>${run.units_done.toLocaleString("en")} of ${run.units.toLocaleString("en")} done</dd>
      <dt>rows</dt><dd>${number(run.rows_done)} of ${number(run.rows)}${run.rows_s ? `, ${number(run.rows_s)} rows/s` : ""}${run.left_s ? `, ${span(run.left_s)} left` : ""}</dd>
      <dt>quarantined</dt><dd>${number(run.quarantined)}</dd><dt>began</dt><dd><${Ago} at=${run.started_s} /></dd></dl></div></section>`;
}

const RUN_COLUMNS = [["run"], ["state"], ["version", "num wide"], ["for", "wide"], ["units", "num wide"], ["rows", "num"], ["rows/s", "num wide"], ["quarantined", "num"], ["written", "num wide"], ["began"], ["took", "num wide"]];

function Runs({ list, name, model }) {
  const [shown, show] = useState(null);
  const chosen = list.find((run) => run.run_id === shown);
  const rows = (run) => (run.quarantined ? html`<button type="button" onClick=${() => show(shown === run.run_id ? null : run.run_id)} aria-expanded=${shown === run.run_id} disabled=${!may("operate", model)}
      title=${may("operate", model) ? "" : `rows are shown to who has the role operate over ${model}`} aria-label=${`${number(run.quarantined)} rows quarantined by ${run.run_id}`}>${number(run.quarantined)}</button>` : "0");
  return html`<section aria-labelledby="runs"><h2 id="runs">Runs</h2>
    <${Rows} list=${list} page=${20} columns=${RUN_COLUMNS} caption="Runs" empty="none yet" row=${(run) => html`<tr key=${run.run_id}>
      <th scope="row"><${Command} text=${run.run_id} shown=${run.run_id.slice(0, 16)} /></th><td><${State} word=${run.state} /></td><td class="num wide">${run.version}</td><td class="wide">${run.as_of ?? "–"}</td>
      <td class="num wide">${run.units_done}/${run.units}</td><td class="num">${number(run.rows_done)}</td><td class="num wide">${number(run.rows_s)}</td><td class="num">${rows(run)}</td>
      <td class="num wide">${bytes(run.size_bytes)}</td><td title=${absolute(run.started_s)}><${Ago} at=${run.started_s} /></td><td class="num wide">${run.ended_s ? span(run.ended_s - run.started_s) : "–"}</td></tr>`} />
    ${chosen && html`<${Quarantined} name=${name} run=${chosen} key=${chosen.run_id} />`}</section>`;
}

function Quarantined({ name, run }) {
  const told = useAsked(() => post(`batches/${encodeURIComponent(name)}/runs`, { quarantine: run.run_id }), `${run.run_id} ${run.quarantined}`);
  if (told.refused) return html`<${Refusal} refused=${told.refused} asked />`;
  if (!told.answer) return html`<p class="empty">…</p>`;
  const { rows, looked_at, reasons, redacted, more_columns, kept, locked, remedy } = told.answer;
  if (!kept) return html`<p class="empty">The rows of ${run.run_id} are not kept any more.</p>`;
  if (locked) return html`<p class="refused" role="alert">The gateway can't read the rows of <code>${run.run_id}</code>: <bdi>${locked}</bdi>. <${Words} text=${remedy} /></p>`;
  return html`<h2 class="aside">Quarantined by <code>${run.run_id}</code> <span class="dim">${count(rows, "row")}${looked_at < rows ? `, of which ${number(looked_at)} were looked at` : ""}</span></h2>
    ${redacted.length > 0 && html`<p class="dim">Redacted, as the model's document says: <bdi>${redacted.join(", ")}</bdi></p>`}
    ${more_columns > 0 && html`<p class="dim">${count(more_columns, "more column")} ${more_columns > 1 ? "are" : "is"} not shown.</p>`}
    ${reasons.map(({ reason, rows, samples }) => html`<h3 key=${reason}><bdi>${reason}</bdi> <span class="dim">${count(rows, "row")}</span></h3>
      ${samples.length > 0 && html`<${Samples} reason=${reason} list=${samples} />`}`)}`;
}

function Samples({ reason, list }) {
  const columns = Object.keys(list[0]);
  return html`<${Rows} list=${list} columns=${columns.map((column) => [column === "_file" ? "file" : column])} caption=${`Some rows: ${reason}`} empty="" row=${(sample, i) => html`<tr key=${i}>${columns.map(
    (column) => html`<td class="sample"><bdi>${sample[column]}</bdi></td>`)}</tr>`} />`;
}

// What the cluster ran of it: by its schedule, and because somebody asked.
function Fires({ name, schedule, by_hand }) {
  const list = [...(schedule?.fires ?? []), ...by_hand].sort((a, b) => b.at_s - a.at_s);
  const empty = schedule ? "none yet" : html`none yet; <${Command} text=${`headrace batch run ${name}`} /> runs it in a terminal`;
  return html`<section aria-labelledby="fires"><h2 id="fires">Run by the cluster</h2>
    <${Rows} list=${list} page=${20} columns=${[["due"], ["asked by", "wide"], ["state"], ["tries", "num wide"], ["took", "num"], ["job", "wide"], ["why"]]} caption="Run by the cluster" empty=${empty} row=${(fire) => html`<tr key=${fire.job}>
      <td><time title=${absolute(fire.at_s)}>${absolute(fire.at_s)}</time></td><td class="wide"><bdi>${fire.by || "its schedule"}</bdi></td><td><${State} word=${fire.state} /></td><td class="num wide">${fire.attempt + 1}</td>
      <td class="num">${fire.ended_s ? span(fire.ended_s - fire.at_s) : "–"}</td><td class="wide"><${Command} text=${fire.job} /></td><td class="why"><bdi>${fire.reason}</bdi></td></tr>`} /></section>`;
}
