// A stream: how far each partition is and why it stands, its dead letters, and moving it.
import { html, useState, useEffect } from "./vendor/preact-htm.js";
import { useLive, command, askStream } from "./live.js";
import { number, State, Ago, absolute, Words } from "./words.js";
import { Action, Command, Document, Lacking, Nothing, Refusal, Rows, Spark, Wrong, link } from "./parts.js";
import { Past } from "./model.js";
import { behind } from "./overview.js";
import { useAsked } from "./calling.js";
import { Letters } from "./letters.js";
import { Seek } from "./seek.js";
import { Told } from "./told.js";

const LOOK_MS = 3000;
const POINTS = 200;
const lags = new Map(); // by `stream partition`: what waited there since this page was opened

export function Stream({ name, query }) {
  const live = useLive();
  const row = live.rows.get(`stream/${name}`);
  const beat = useBeat(LOOK_MS);
  const told = useAsked(() => command("feed.show", { kind: "stream", name }), `${name} ${beat} ${row?.wanted}`);
  const moves = useAsked(() => askStream(name, "moves", {}), `${name} ${beat}`);
  useEffect(() => noteLags(name, told.answer?.workers ?? []), [told.answer]);
  if (!row) return html`<${Nothing} kind="stream" name=${name} />`;
  const asks = { role: "operate", model: row.model };
  const paused = row.wanted === "paused";
  const want = (what) => () => command(`feed.${what}`, { kind: "stream", name, seen: row.wanted });
  const spec = told.answer?.spec;
  const begun = moves.answer?.moves ?? [];
  return html`<h1>Stream <bdi>${name}</bdi> <${State} word=${paused ? "paused" : row.status} /></h1>
    <${Wrong} list=${row.wrong.map((one) => ({ kind: "stream", name, where: name, one }))} />
    <dl class="facts"><dt>scores with</dt><dd><a href=${link("model", row.model)}><bdi>${row.model}</bdi></a></dd>
      <dt>rate</dt><dd>${number(row.figures.records_s ?? 0)} records/s</dd>
      <dt>in wait</dt><dd>${number(row.figures.lag_records)} records, ${behind(row.figures)} behind</dd>
      ${spec?.input && html`<dt>reads</dt><dd><bdi>${topicsOf(spec.input)}</bdi></dd><dt>answers go to</dt><dd><bdi>${spec.output.topic}</bdi></dd>`}
      ${row.message && html`<dt>says</dt><dd><bdi>${row.message}</bdi></dd>`}</dl>
    <div class="buttons">${paused
      ? html`<${Action} ...${asks} label="Resume" run=${want("resume")} effect="It goes on from where it stopped: what waits in its topic is scored now." />`
      : html`<${Action} ...${asks} label="Pause" run=${want("pause")} effect="It commits what it has taken, and stops. What comes meanwhile waits in its topic; nothing is lost as long as the topic keeps it." />`}</div>
    <${Lacking} ...${asks} />
    ${told.answer && html`<${Partitions} name=${name} workers=${told.answer.workers} paused=${paused} /><${Workers} workers=${told.answer.workers} />`}
    <${Past} name=${name} subject="stream" figures=${[["lag_records", "records in wait", ""], ["records_s", "records/s", ""]]} />
    ${begun.length > 0 && html`<${Moves} list=${begun} />`}
    <${Letters} name=${name} asks=${asks} query=${query} output=${spec?.output?.topic ?? "its output"} />
    <${Seek} name=${name} asks=${asks} paused=${paused} />
    <${Who} name=${name} model=${row.model} mark=${`${row.wanted} ${begun.map((move) => move.state).join()} ${beat - (beat % 4)}`} />
    <${Refusal} refused=${told.refused} />
    ${spec && html`<${Document} spec=${spec} />`}
    <p class="dim">The same in a terminal: <${Command} text=${`headrace stream status ${name}`} /></p>`;
}

function Who({ name, model, mark }) {
  const told = useAsked(() => command("rollout.history", { model }), `${model} ${mark}`);
  return html`<section aria-labelledby="who"><h2 id="who">Who did what with it</h2>
    <${Told} told=${told} only=${(event) => event.detail.kind === "stream" && event.detail.name === name} /></section>`;
}

function useBeat(every_ms) {
  const [beat, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && again((n) => n + 1), every_ms);
    return () => clearInterval(timer);
  }, []);
  return beat;
}

const topicsOf = (input) => input.topic || (input.topics ?? []).join(", ") || `topics like ${input.pattern}`;

function noteLags(name, workers) {
  for (const worker of workers)
    for (const [at, lag] of Object.entries(worker.lag ?? {})) {
      const key = `${name} ${at}`;
      const line = lags.get(key) ?? [];
      lags.set(key, [...line, lag].slice(-POINTS));
    }
}

const PARTITION_COLUMNS = [["partition"], ["in wait", "num"], ["since you look", "wide"], ["worker", "num"], ["phase"], ["why"]];

function Partitions({ name, workers, paused }) {
  const list = workers.flatMap((worker) => [...new Set([...(worker.partitions ?? []), ...Object.keys(worker.held ?? {})].map(String))].map((at) => ({ at, worker })));
  list.sort((a, b) => a.at.localeCompare(b.at, "en", { numeric: true }));
  const empty = paused ? "it is paused, so no worker has any" : "no worker has any yet";
  return html`<section aria-labelledby="partitions"><h2 id="partitions">Partitions</h2>
    <${Rows} list=${list} columns=${PARTITION_COLUMNS} caption="Partitions" empty=${empty} row=${({ at, worker }) => html`<tr key=${at}>
      <th scope="row"><bdi>${at}</bdi></th><td class="num">${number(worker.lag?.[at])}</td>
      <td class="wide"><${Spark} values=${lags.get(`${name} ${at}`) ?? []} label=${`what waits in partition ${at}, since this page was opened`} /></td>
      <td class="num">${worker.rank}</td><td>${worker.held?.[at] ? html`<${State} word="not read" of="broken" />` : worker.phase}</td>
      <td><${Why} at=${at} worker=${worker} /></td></tr>`} /></section>`;
}

// What keeps a partition, else how it began here.
function Why({ at, worker }) {
  const opened = worker.open_transactions?.[at], began = worker.began?.[at];
  if (worker.held?.[at]) return html`<bdi><${Words} text=${worker.held[at]} /></bdi>`;
  if (opened) return html`${number(opened.records)} records lie behind a transaction that another producer has left open <${Ago} at=${opened.since_s} />`;
  const kept = [worker.message, worker.stuck_cause, worker.breaker_open && "its version fails row after row: it holds until that is over"].filter(Boolean).join("; ");
  if (kept) return html`<bdi>${kept}</bdi>`;
  if (!began) return html`<span class="dim">not known yet</span>`;
  return html`<span class="dim">began at ${began.offset.toLocaleString("en")}: ${began.why}</span>${began.missing ? html` <b>${number(began.missing)} offsets before that are gone</b>` : null}`;
}

function Workers({ workers }) {
  const columns = [["worker", "num"], ["phase"], ["records/s", "num"], ["in flight", "num"], ["commit", "num wide"], ["dead", "num"], ["retries", "num"], ["says"]];
  return html`<section aria-labelledby="workers"><h2 id="workers">Workers</h2>
    <${Rows} list=${workers} columns=${columns} caption="Workers" empty="none runs" row=${(worker) => html`<tr key=${worker.replica}>
      <th scope="row" class="num">${worker.rank}</th><td>${worker.phase}</td><td class="num">${number(worker.rows_s)}</td><td class="num">${number(worker.in_flight_rows)}</td>
      <td class="num wide">${number(worker.commit_ms)} ms</td><td class="num">${number(worker.rows_dead)}</td><td class="num">${number(worker.retries)}</td>
      <td><bdi>${[worker.message, worker.stuck_cause, worker.label_trouble].filter(Boolean).join("; ")}</bdi></td></tr>`} /></section>`;
}

function Moves({ list }) {
  return html`<section aria-labelledby="moves"><h2 id="moves">Replays and seeks</h2>
    <${Rows} list=${list} page=${5} columns=${[["begun"], ["what"], ["by"], ["state"], ["how far"]]} caption="Replays and seeks" empty="none" row=${(move) => html`<tr key=${move.id}>
      <td title=${absolute(move.begun_s)}><${Ago} at=${move.begun_s} /></td><td>${move.kind}</td><td><bdi>${move.by}</bdi></td>
      <td><${State} word=${move.state} of=${{ running: "waiting", done: "passed", failed: "failed" }[move.state]} /></td><td><bdi>${move.words}</bdi></td></tr>`} /></section>`;
}
