// What is wrong first; then everything that runs, at a glance.
import { html, useState, useEffect, useRef } from "./vendor/preact-htm.js";
import { useLive, of, lineOf, recent, seedLines } from "./live.js";
import { number, percent, milliseconds, bytes, span, State, Ago, count } from "./words.js";
import { Spark, Wrong, Rows, link, Command } from "./parts.js";
import { Steps } from "./steps.js";

const GRAVEST = ["broken", "waiting", "note"];

export function Overview() {
  const live = useLive();
  const [filter, set] = useState("");
  const box = useRef();
  useEffect(() => {
    seedLines("requests_s", 600).catch(() => null);
    seedLines("lag_records", 600).catch(() => null);
    const slash = (event) => {
      if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
      event.preventDefault();
      box.current.focus();
    };
    document.addEventListener("keydown", slash);
    return () => document.removeEventListener("keydown", slash);
  }, []);
  if (!live.me?.grants.some((grant) => grant.roles.includes("view")))
    return html`<h1>Overview</h1><p class="empty">Nothing is shown to you: that takes the role <b>view</b> over some model. ${live.me?.name ?? "Nobody"} has not got it; an admin grants it.</p>`;
  if (live.rows.get("house")?.away_s && live.rows.size === 1)
    return html`<h1>Overview</h1><p class="empty">The controller has told nothing yet.</p>`;
  const wanted = filter.toLowerCase();
  const fits = (row) => !wanted || `${row.name} ${row.model ?? ""} ${row.project ?? ""}`.toLowerCase().includes(wanted);
  const models = of("model"), streams = of("stream"), batches = of("batch"), nodes = of("node");
  const wrong = wrongOf(live, models, streams, batches, nodes);
  const moving = models.filter((model) => model.rollout && model.rollout.rollout.ended_s === null && fits(model));
  return html`<h1 class="unseen">Overview</h1>
    <section aria-labelledby="wrong"><h2 id="wrong">${wrong.some((each) => each.one.severity !== "note") ? "What is wrong" : "Nothing is wrong"}</h2>
      <${Wrong} list=${wrong.slice(0, 50)} />
      <p class="counts">${counts(models, streams, batches, nodes)}</p></section>
    ${moving.length > 0 && html`<section aria-labelledby="moving"><h2 id="moving">Rollouts under way</h2>
      <div class="cards">${moving.slice(0, 12).map((model) => html`<${Moving} model=${model} key=${model.name} />`)}</div></section>`}
    <div class="filter"><label for="filter">Filter</label>
      <input id="filter" ref=${box} type="search" placeholder="a name, a project ( / )" value=${filter} onInput=${(e) => set(e.target.value)} /></div>
    <${Models} list=${models.filter(fits)} any=${models.length > 0} of=${wanted} />
    <${Streams} list=${streams.filter(fits)} any=${streams.length > 0} of=${wanted} />
    <${Batches} list=${batches.filter(fits)} any=${batches.length > 0} of=${wanted} />
    ${nodes.length > 0 && html`<${Nodes} list=${nodes} />`}`;
}

function wrongOf(live, models, streams, batches, nodes) {
  const found = [];
  const house = live.rows.get("house");
  const say = (kind, name, where, one) => found.push({ kind, name, where, one });
  if (house?.quiet_s)
    say("", "", "the controller", { severity: "broken", words: "it has not looked", since_s: house.quiet_s, remedy: "`headrace logs --controller` says why" });
  for (const node of nodes)
    if (!node.alive) say("", "", `node ${node.address}`, { severity: "broken", words: "it is gone", remedy: "what ran there is started elsewhere, where there is room" });
  for (const [kind, rows] of [["model", models], ["stream", streams], ["batch", batches]])
    for (const row of rows)
      for (const one of row.wrong)
        say(kind === "model" && /rollout|taken back/.test(one.words) ? "rollout" : kind, row.name, kind === "model" ? row.name : `${kind} ${row.name}`, one);
  return found.sort((a, b) => GRAVEST.indexOf(a.one.severity) - GRAVEST.indexOf(b.one.severity));
}

function counts(models, streams, batches, nodes) {
  const apps = models.flatMap((model) => model.apps);
  const sum = (name) => apps.reduce((all, app) => all + app[name], 0);
  const parts = [count(models.length, "model")];
  if (apps.length) parts.push(`${sum("replicas")} of ${count(sum("target_replicas"), "replica")}`);
  if (streams.length) parts.push(count(streams.length, "stream"));
  if (batches.length) parts.push(count(batches.length, "batch", "batches"));
  if (nodes.length) parts.push(count(nodes.filter((node) => node.alive).length, "node"));
  const asked = models.reduce((all, model) => all + (model.figures.requests_s ?? 0), 0);
  if (models.length) parts.push(`${number(asked)} requests/s`);
  return parts.join(" · ");
}

function Moving({ model }) {
  const { rollout } = model.rollout;
  return html`<a class="card" href=${link("rollout", model.name)}>
    <div class="line"><b><bdi>${model.name}</bdi></b> <span>version ${rollout.stable ?? "–"} → ${rollout.candidate}</span>
      <${State} word=${model.rollout.held ? "waits for a person" : rollout.state} of=${model.rollout.held ? "held" : rollout.state} /></div>
    <${Steps} glance=${model.rollout} small />
    <div class="dim">waits for ${model.rollout.waits_for}</div></a>`;
}

const MODEL_COLUMNS = [["model"], ["serves"], ["replicas", "num wide"], ["requests/s", "num"], ["10 minutes", "wide"], ["errors", "num"], ["p99", "num wide"], ["state"]];

function Models({ list, any, of }) {
  const empty = any
    ? "no model has that in its name"
    : html`No model yet. Make a project with one: <${Command} text="headrace init demo" /> then <${Command} text="headrace apply -f demo" />`;
  return html`<section aria-labelledby="models"><h2 id="models">Models</h2>
    <${Rows} list=${list} of=${of} columns=${MODEL_COLUMNS} caption="Models" empty=${empty} row=${modelRow} /></section>`;
}

// One that has not changed is not drawn again.
const drawn = new WeakMap();

function modelRow(model) {
  const line = lineOf(`model/${model.name}`, "requests_s");
  const known = drawn.get(model);
  if (known?.points === line.t.length) return known.row;
  const row = html`<${Model} model=${model} key=${model.name} />`;
  drawn.set(model, { points: line.t.length, row });
  return row;
}

function Model({ model }) {
  const figures = model.figures, rollout = model.rollout?.rollout;
  const moving = rollout && rollout.ended_s === null;
  const errors = figures.requests_s ? (figures.failed_requests_s ?? 0) / figures.requests_s : null;
  const apps = model.apps.filter((app) => app.role !== "idle");
  const sum = (name) => apps.reduce((all, app) => all + app[name], 0);
  return html`<tr><th scope="row"><a href=${link("model", model.name)}><bdi>${model.name}</bdi></a></th>
    <td>${model.stable === null ? html`<span class="dim">nothing yet</span>` : `v${model.stable}`}${moving && html` <a class="share" href=${link("rollout", model.name)}>→ v${rollout.candidate} ${rollout.weight ? `${number(rollout.weight)} %` : rollout.shadow ? "shadow" : rollout.state}</a>`}</td>
    <td class="num wide">${sum("replicas")}<span class="dim">/${sum("target_replicas")}</span></td>
    <td class="num">${number(figures.requests_s ?? 0)}</td>
    <td class="wide"><${Spark} values=${recent(lineOf(`model/${model.name}`, "requests_s"))} label=${`requests of ${model.name} over ten minutes`} /></td>
    <td class=${`num ${errors >= 0.01 ? "bad" : ""}`}>${errors === null ? "–" : percent(errors)}</td>
    <td class="num wide">${milliseconds(figures.p99_s)}</td>
    <td>${stateOf(model)}</td></tr>`;
}

function stateOf(model) {
  if (model.removing) return html`<${State} word="being removed" of="soft" />`;
  const ill = model.apps.find((app) => app.status === "failed" || app.status === "unhealthy");
  if (ill) return html`<${State} word=${`v${ill.version} ${ill.status}`} of=${ill.status} />`;
  const serving = model.apps.find((app) => app.role === "stable");
  return html`<${State} word=${serving?.status ?? (model.versions ? "not served" : "no version")} />`;
}

const STREAM_COLUMNS = [["stream"], ["model", "wide"], ["records/s", "num"], ["lag", "num"], ["10 minutes", "wide"], ["behind", "num wide"], ["workers", "num wide"], ["state"]];

function Streams({ list, any, of }) {
  const empty = any ? "no stream has that in its name" : html`No stream yet: <${Command} text="headrace apply -f stream.yaml" /> with a document of kind Stream starts one.`;
  return html`<section aria-labelledby="streams"><h2 id="streams">Streams</h2>
    <${Rows} list=${list} of=${of} columns=${STREAM_COLUMNS} caption="Streams" empty=${empty} row=${(stream) => html`<tr key=${stream.name}>
      <th scope="row"><a href=${link("stream", stream.name)}><bdi>${stream.name}</bdi></a></th>
      <td class="wide"><a href=${link("model", stream.model)}><bdi>${stream.model}</bdi></a></td>
      <td class="num">${number(stream.figures.records_s ?? 0)}</td>
      <td class="num">${number(stream.figures.lag_records)}</td>
      <td class="wide"><${Spark} values=${recent(lineOf(`stream/${stream.name}`, "lag_records"))} label=${`lag of ${stream.name} over ten minutes`} /></td>
      <td class="num wide">${behind(stream.figures)}</td>
      <td class="num wide">${stream.replicas}</td>
      <td><${State} word=${stream.wanted === "paused" ? "paused" : stream.status} /></td></tr>`} /></section>`;
}

export function behind(figures) {
  if (figures.oldest_s !== undefined) return span(figures.oldest_s);
  const { lag_records: lag, records_s: rate } = figures;
  return lag && rate ? span(lag / rate) : lag === 0 ? "0 s" : "–";
}

const BATCH_COLUMNS = [["batch"], ["model", "wide"], ["schedule", "wide"], ["next"], ["last run", "wide"], ["rows", "num wide"], ["quarantined", "num"], ["state"]];

function Batches({ list, any, of }) {
  const empty = any ? "no batch has that in its name" : html`No batch yet: <${Command} text="headrace apply -f batch.yaml" />, then <${Command} text="headrace batch run NAME" />`;
  return html`<section aria-labelledby="batches"><h2 id="batches">Batches</h2>
    <${Rows} list=${list} of=${of} columns=${BATCH_COLUMNS} caption="Batches" empty=${empty} row=${(batch) => html`<tr key=${batch.name}>
      <th scope="row"><a href=${link("batch", batch.name)}><bdi>${batch.name}</bdi></a></th>
      <td class="wide"><a href=${link("model", batch.model)}><bdi>${batch.model}</bdi></a></td>
      <td class="wide">${batch.cron ? html`<code>${batch.cron}</code> <span class="dim">${batch.timezone}</span>` : html`<span class="dim">by hand</span>`}</td>
      <td>${batch.next_s ? html`<${Ago} at=${batch.next_s} />` : "–"}</td>
      <td class="wide">${batch.last ? html`<${Ago} at=${batch.last.at_s} />` : "–"}</td>
      <td class="num wide">${number(batch.figures.rows_scored)}</td><td class="num">${number(batch.figures.rows_quarantined)}</td>
      <td><${State} word=${batch.wanted === "paused" ? "paused" : (batch.last?.state ?? "ready")} /></td></tr>`} /></section>`;
}

const NODE_COLUMNS = [["node"], ["role", "wide"], ["CPUs", "num"], ["busy", "num"], ["memory", "num"], ["for replicas", "num wide"], ["GPUs", "num"], ["state"]];

function Nodes({ list }) {
  return html`<section aria-labelledby="nodes"><h2 id="nodes">Nodes</h2>
    <${Rows} list=${list} columns=${NODE_COLUMNS} caption="Nodes" empty="none" row=${(node) => html`<tr key=${node.id}>
      <th scope="row">${node.address} <span class="dim">${node.id}</span></th><td class="wide">${node.is_head ? "head" : "worker"}</td>
      <td class="num">${number(node.cpus)}</td><td class="num">${node.load ? html`<${Share} of=${node.load.cpu_busy} label=${`CPUs of ${node.address}`} />` : "–"}</td>
      <td class="num">${node.load ? html`<${Share} of=${node.load.memory_used_bytes / node.load.memory_bytes} label=${`memory of ${node.address}`} /> <span class="dim">of ${bytes(node.load.memory_bytes)}</span>` : "–"}</td>
      <td class="num wide">${bytes(node.memory_bytes)}</td><td class="num">${gpus(node)}</td>
      <td><${State} word=${node.alive ? "alive" : "dead"} /></td></tr>`} /></section>`;
}

function Share({ of, label }) {
  return html`<meter min="0" max="1" high="0.9" value=${of} aria-label=${label}></meter> ${percent(Math.round(of * 100) / 100)}`;
}

function gpus(node) {
  const seen = node.load?.gpus ?? [];
  if (!seen.length) return number(node.gpus);
  return seen.map((gpu, i) => html`<div key=${i} title=${gpu.name}>${gpu.busy === null ? "–" : html`<${Share} of=${gpu.busy} label=${`GPU ${i} of ${node.address}`} />`} <span class="dim">${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_bytes)}</span></div>`);
}
