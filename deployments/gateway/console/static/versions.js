// A model's versions: what the build found out about each, two of them side by side, and rolling one out.
import { html, useState, useEffect } from "./vendor/preact-htm.js";
import { useLive, command, post } from "./live.js";
import { number, bytes, percent, State, Ago } from "./words.js";
import { Action, Command, Lacking, Nothing, Rows, link } from "./parts.js";
import { useAsked } from "./calling.js";
import { Importance, Profile } from "./profile.js";

const LOOKED_AT = 8; // the newest versions: of more, a table says little at a glance

const addressOf = (model, ...versions) => `#/versions/${[model, ...versions].map(encodeURIComponent).join("/")}`;

// What the build said of these versions, by number; a version never changes. Of one that can't be read: why.
function useAbouts(model, numbers) {
  const [known, set] = useState({});
  const key = numbers.join(" ");
  useEffect(() => {
    let there = true;
    for (const version of numbers)
      if (!known[version] || known[version].refused)
        post(`models/${encodeURIComponent(model)}/versions/${version}/about`, {}).then(
          (about) => there && set((before) => ({ ...before, [version]: about })),
          (refused) => there && set((before) => ({ ...before, [version]: { refused } })),
        );
    return () => (there = false);
  }, [model, key]);
  return known;
}

const kept = (about) => about?.variants?.find((variant) => variant.chosen);
const figure = (about) => kept(about)?.quality[0];
const single = (about) => kept(about)?.speed["1"] ?? Object.values(kept(about)?.speed ?? {})[0];

export function Versions({ model, versions }) {
  const apps = new Map(model.apps.map((app) => [app.version, app]));
  const list = [...versions].reverse();
  const abouts = useAbouts(model.name, list.slice(0, LOOKED_AT).map((version) => version.version));
  const columns = [["version", "num"], ["role"], ["state"], ["replicas", "num wide"], ["quality", "num"], ["p50 of a row", "num wide"], ["size", "num wide"], ["engine", "wide"], ["made", "wide"], ["digest", "wide"], [""]];
  return html`<section aria-labelledby="versions"><h2 id="versions">Versions</h2>
    <${Rows} list=${list} page=${20} columns=${columns} caption="Versions" empty="none yet" row=${(version) => {
      const app = apps.get(version.version), about = abouts[version.version];
      return html`<tr key=${version.version}><th scope="row" class="num"><a href=${addressOf(model.name, version.version)}>${version.version}</a></th><td>${version.role}</td>
        <td>${app ? html`<${State} word=${app.status} />` : "–"}</td><td class="num wide">${app ? `${app.replicas}/${app.target_replicas}` : "–"}</td>
        <td class="num"><${Figure} of=${figure(about)} /></td><td class="num wide">${single(about) ? `${number(single(about).p50_ms)} ms` : "–"}</td><td class="num wide">${about?.size_bytes ? bytes(about.size_bytes) : "–"}</td>
        <td class="wide">${version.engine}</td><td class="wide"><${Ago} at=${version.created_s} /></td><td class="wide"><${Command} text=${version.digest} shown=${version.digest.slice(0, 12)} /></td>
        <td><${Start} model=${model} version=${version.version} role=${version.role} /></td></tr>`;
    }} />${list.length > 1 && html`<${Compare} model=${model} list=${list} />`}<${Lacking} role="operate" model=${model.name} /></section>`;
}

function Figure({ of }) {
  if (!of) return "–";
  const shown = of.low === null ? number(of.value) : percent(of.value);
  return html`<span title=${told(of)}>${shown} <span class="dim">${of.name.replaceAll("_", " ")}</span></span>`;
}

const told = (of) => (of.low === null ? `${number(of.value, 5)} over ${of.rows.toLocaleString("en")} rows` : `${percent(of.value)}, between ${percent(of.low)} and ${percent(of.high)} with 95 % confidence, over ${of.rows.toLocaleString("en")} rows`);

function Compare({ model, list }) {
  const [pair, choose] = useState([model.stable ?? list[1].version, list[0].version === model.stable ? list[1].version : list[0].version]);
  const picked = (at, label) => html`<label>${label} <select value=${pair[at]} onChange=${(e) => choose(pair.with(at, Number(e.target.value)))}>${list.map(
    ({ version }) => html`<option key=${version} value=${version}>version ${version}</option>`)}</select></label>`;
  return html`<div class="buttons">${picked(0, "Compare")} ${picked(1, "with")} <a class="button" href=${addressOf(model.name, ...pair)}>Side by side</a></div>`;
}

function Start({ model, version, role }) {
  if (role === "stable" || role === "candidate") return null;
  const moving = model.rollout && model.rollout.rollout.ended_s === null;
  const back = role === "warm";
  const steps = "by the steps of the model's own plan, each proven before the next";
  return html`<${Action} role="operate" model=${model.name} label=${back ? `Go back to ${version}` : `Roll out ${version}`}
    away=${moving ? "a rollout is under way: let it end, or abort it" : ""}
    run=${() => command("rollout.start", { model: model.name, version, plan: back ? "instant" : null })}
    effect=${[back ? `Version ${version} is still warm: it gets all traffic at once, and nothing is judged.` : `Version ${version} is started, and gets traffic ${steps}.`,
      `The same in a terminal: \`headrace rollout start ${model.name} --version ${version}${back ? " --plan instant" : ""}\``]} />`;
}

// One version, or two side by side: `NAME/1` or `NAME/1/2`.
export function VersionPage({ name }) {
  const live = useLive();
  const [model, ...rest] = name.split("/");
  const numbers = rest.map(Number).filter((number) => Number.isInteger(number) && number > 0).slice(0, 2);
  const row = live.rows.get(`model/${model}`);
  const shown = useAsked(() => command("model.show", { model }), `${model} ${row?.versions} ${row?.stable} ${row?.rollout?.rollout.state}`);
  const abouts = useAbouts(model, numbers);
  const views = numbers.map((number) => shown.answer?.versions.find((version) => version.version === number));
  if (!row || !numbers.length || (shown.answer && views.includes(undefined)))
    return html`<${Nothing} kind="version" name=${model} />`;
  const title = numbers.length > 1 ? `versions ${numbers.join(" and ")}` : `version ${numbers[0]}`;
  const sides = numbers.map((number, i) => ({ number, view: views[i], about: abouts[number], live: shown.answer?.quality?.versions.find((each) => each.version === number) }));
  return html`<h1><a href=${link("model", model)}><bdi>${model}</bdi></a> ${title}</h1>
    ${sides.map(({ number, about }) => about?.refused && html`<p class="refused">Version ${number}: ${about.refused.message}. ${about.refused.remedy}</p>`)}
    ${shown.answer && html`<${Side} sides=${sides} />`}
    ${sides.map((side) => side.about?.variants?.length > 0 && html`<${Variants} side=${side} key=${side.number} />`)}
    <${Importance} sides=${sides} /><${Profile} sides=${sides} />`;
}

const shapes = (specs) => (specs ?? []).map((spec) => `${spec.name} ${spec.datatype} ${JSON.stringify(spec.shape)}`).join("\n");

function rowsOf(sides) {
  const speeds = [...new Set(sides.flatMap(({ about }) => Object.keys(kept(about)?.speed ?? {})))].sort((a, b) => a - b);
  const names = [...new Set(sides.flatMap(({ about }) => (kept(about)?.quality ?? []).map((each) => each.name)))];
  return [
    ["role", ({ view }) => view.role],
    ["engine", ({ view }) => view.engine],
    ["size", ({ about }) => about?.size_bytes && bytes(about.size_bytes)],
    ["peak memory", ({ about }) => kept(about)?.peak_bytes && bytes(kept(about).peak_bytes)],
    ...names.map((name) => [name.replaceAll("_", " "), ({ about }) => {
      const found = kept(about)?.quality.find((each) => each.name === name);
      return found && told(found);
    }]),
    ["live loss", ({ live }) => live && (live.loss === null ? "no label yet" : `${number(live.loss)}, between ${number(live.low)} and ${number(live.high)}, by ${live.labelled.toLocaleString("en")} late labels`)],
    ...speeds.map((batch) => [`speed, ${batch === "1" ? "a row" : `${batch} rows`} at a time`, ({ about }) => {
      const found = kept(about)?.speed[batch];
      return found && `${number(found.rows_per_s)} rows/s, p50 ${number(found.p50_ms)} ms, p99 ${number(found.p99_ms)} ms`;
    }]),
    ["inputs", ({ view }) => shapes(view.signature.inputs)],
    ["outputs", ({ view }) => shapes(view.signature.outputs)],
    ["digest", ({ view }) => view.digest],
  ];
}

// What differs says so in a word: not by colour alone.
function Side({ sides }) {
  const columns = [["what"], ...sides.map(({ number }) => [`version ${number}`]), ...(sides.length > 1 ? [["differs"]] : [])];
  const list = rowsOf(sides).map(([what, of]) => [what, sides.map((side) => of(side) || "–")]).filter(([, values]) => values.some((value) => value !== "–"));
  return html`<section class="told" aria-labelledby="side"><h2 id="side">${sides.length > 1 ? "Side by side" : "What it is"}</h2>
    <${Rows} list=${list} columns=${columns} caption="Versions side by side" empty="" row=${([what, values]) => html`<tr key=${what}><th scope="row">${what}</th>
      ${values.map((value, i) => html`<td key=${i}>${String(value).split("\n").map((line) => html`<div><bdi>${line}</bdi></div>`)}</td>`)}
      ${sides.length > 1 && html`<td>${values[0] === values[1] ? html`<span class="dim">no</span>` : "yes"}</td>`}</tr>`} /></section>`;
}

function Variants({ side }) {
  const columns = [["variant"], ["size", "num"], ["speed", "num"], ["quality", "num"], ["peak memory", "num wide"], ["it"]];
  const id = `variants-${side.number}`;
  return html`<section aria-labelledby=${id}><h2 id=${id}>What the build of version ${side.number} tried</h2>
    <${Rows} list=${side.about.variants} columns=${columns} caption=${`Variants of version ${side.number}`} empty="" row=${(one) => html`<tr key=${one.name}><th scope="row"><bdi>${one.name}</bdi></th>
      <td class="num">${one.skipped ? "–" : bytes(one.size_bytes)}</td><td class="num">${one.skipped ? "–" : `${number(one.speedup)} ×`}</td><td class="num"><${Figure} of=${one.quality[0]} /></td><td class="num wide">${one.peak_bytes ? bytes(one.peak_bytes) : "–"}</td>
      <td>${one.chosen ? html`<${State} word="kept" of="stable" />` : one.skipped ? html`<bdi>skipped: ${one.skipped}</bdi>` : html`<bdi>${one.broken.join("; ") || "not chosen"}</bdi>`}</td></tr>`} /></section>`;
}
