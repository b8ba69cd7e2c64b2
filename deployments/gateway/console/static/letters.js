// Dead letters: by reason with counts, one looked at, and some of them scored again. Everything in them is shown as text.
import { html, useState, useEffect, useRef } from "./vendor/preact-htm.js";
import { may, askStream as ask } from "./live.js";
import { absolute, Ago, bytes, count } from "./words.js";
import { Action, Command, Refusal, Rows, link } from "./parts.js";
import { useAsked } from "./calling.js";

const STAGES = { VALUE_CONVERTER: "reading it", TASK_PUT: "scoring it", KAFKA_PRODUCE: "writing its answer" };

// `query` is what follows ? in the address: `letters` opens them, `reason` chooses one, `at` looks at one (partition-offset).
export function Letters({ name, asks, query, output }) {
  const [state, set] = useState({ page: null, refused: null, busy: false });
  const [picked, pick] = useState(new Set());
  const wanted = query.has("letters"), reason = query.get("reason") ?? "";
  const asked = useRef(0); // what is answered late is not shown
  async function look(before = null) {
    const turn = ++asked.current;
    set((was) => ({ ...was, busy: true, refused: null }));
    try {
      const page = await ask(name, "letters", { reason, before: before?.ranges ?? [] });
      if (turn === asked.current) set({ page: before ? joined(before, page) : page, refused: null, busy: false });
    } catch (refused) {
      if (turn === asked.current) set((was) => ({ ...was, refused, busy: false }));
    }
  }
  useEffect(() => {
    pick(new Set());
    if (wanted) look();
  }, [name, wanted, reason]);
  const { page } = state;
  return html`<section aria-labelledby="letters"><h2 id="letters">Dead letters</h2>
    ${!wanted
      ? html`<p>Records that could not be scored are kept whole in their own topic. <a href=${at(name, { letters: "" })}>Look at the newest</a></p>`
      : html`<${Refusal} refused=${state.refused} asked />
        ${!page && !state.refused && html`<p class="empty">Looking into the topic…</p>`}
        ${page && html`<${Looked} ...${{ name, asks, page, reason, query, output, picked, pick }} busy=${state.busy} look=${look} />`}`}</section>`;
}

function at(name, parts) {
  const told = Object.entries(parts).map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
  return `${link("stream", name)}?${told.join("&")}`;
}

// An older look behind a newer one: ranges that touch become one.
function joined(newer, older) {
  const reasons = new Map(newer.reasons.map((one) => [one.key, one]));
  for (const one of older.reasons) {
    const known = reasons.get(one.key);
    reasons.set(one.key, known ? { ...known, letters: known.letters + one.letters, first_ms: Math.min(known.first_ms, one.first_ms) } : one);
  }
  const ends = new Map(newer.ranges.map((one) => [one.partition, one]));
  return {
    ...older,
    ranges: older.ranges.map((one) => ({ ...one, end: Math.max(one.end, ends.get(one.partition)?.end ?? one.end) })),
    letters: newer.letters + older.letters,
    reasons: [...reasons.values()].sort((a, b) => b.letters - a.letters),
    rows: [...newer.rows, ...older.rows],
  };
}

function Looked({ name, asks, page, reason, query, output, picked, pick, busy, look }) {
  if (!page.letters && !page.more) return html`<p class="empty">None: every record so far was scored. Those that can't be come to <bdi>${page.topic}</bdi>.</p>`;
  const chosen = page.reasons.find((one) => one.key === reason);
  const place = query.get("at")?.match(/^(\d+)-(\d+)$/);
  const columns = [["letters", "num"], ["failed at"], ["why"], ["first", "wide"], ["last"], [""]];
  return html`<p>${count(page.letters, "dead letter")} among the newest of <bdi>${page.topic}</bdi>, which keeps up to ${page.kept.toLocaleString("en")}. ${page.more && html`<button type="button" disabled=${busy} onClick=${() => look(page)}>Look further back</button>`}
      ${" "}<button type="button" disabled=${busy} onClick=${() => look()}>Look again</button> <span class="dim">In a terminal: <${Command} text=${`headrace stream replay ${name} --dead-letters`} /></span></p>
    <${Rows} list=${page.reasons} page=${10} columns=${columns} caption="Reasons" empty="none here" row=${(one) => html`<tr key=${one.key}>
      <td class="num">${one.letters.toLocaleString("en")}</td><td>${STAGES[one.stage] ?? one.stage}</td><td><bdi>${one.message || one.exception || "no reason was given"}</bdi></td>
      <td class="wide"><${Ago} at=${one.first_ms / 1000} /></td><td><${Ago} at=${one.last_ms / 1000} /></td>
      <td>${one.key === reason ? html`<a href=${at(name, { letters: "" })}>Show all</a>` : html`<a href=${at(name, { letters: "", reason: one.key })} aria-label=${`Show those: ${one.message}`}>Show those</a>`}</td></tr>`} />
    <${Replays} ...${{ name, asks, page, chosen, output, picked, pick }} />
    <${Some} ...${{ name, asks, page, reason, picked, pick }} />
    ${place && html`<${One} key=${place[0]} name=${name} partition=${Number(place[1])} offset=${Number(place[2])} back=${at(name, reason ? { letters: "", reason } : { letters: "" })} />`}`;
}

function Replays({ name, asks, page, chosen, output, picked, pick }) {
  const all = chosen ? chosen.letters : page.letters;
  const which = chosen ? `those that failed with "${(chosen.message || chosen.exception).slice(0, 300)}"` : "all that were looked at";
  const ranges = page.ranges.filter((one) => one.begin < one.end);
  const effect = (many, words) => [
    `${count(many, "dead letter")} of \`${page.topic}\`, ${words}, ${many === 1 ? "is" : "are"} scored again by the versions that serve now.`,
    `Answers go to \`${output}\`, marked as a replay's. What fails again becomes a dead letter again, beside the old one.`,
    "The stream itself goes on undisturbed. Dead letters stay in their topic: who replays them twice gets answers twice.",
  ];
  const replay = (choice, letters, words) => () => ask(name, "replay", { choice, letters, which: words }).then(() => pick(new Set()));
  const only = [...picked].map((one) => one.split("-").map(Number)).map(([partition, offset]) => ({ partition, offset }));
  return html`<div class="buttons">
    <${Action} ...${asks} label=${`Replay ${count(all, "letter")}`} away=${all ? "" : "there are none"} effect=${effect(all, which)}
      run=${replay({ ranges, reason: chosen?.key ?? "", only: [] }, all, which)} />
    <${Action} ...${asks} label=${`Replay ${picked.size} selected`} away=${picked.size ? "" : "select some below"} effect=${effect(picked.size, "those that you have selected")}
      run=${replay({ ranges, reason: "", only }, picked.size, `selected: ${[...picked].slice(0, 20).join(", ")}`)} /></div>`;
}

function Some({ name, asks, page, reason, picked, pick }) {
  const key = (row) => `${row.partition}-${row.offset}`;
  const turn = (row) => pick((was) => new Set(was.has(key(row)) ? [...was].filter((one) => one !== key(row)) : [...was, key(row)]));
  const allowed = may("operate", asks.model);
  const columns = [[html`<span class="unseen">selected</span>`], ["died"], ["record"], ...(reason ? [] : [["why", "wide"]]), ["size", "num wide"], [""]];
  const words = new Map(page.reasons.map((one) => [one.key, one.message || one.exception]));
  const parts = (row) => ({ letters: "", ...(reason ? { reason } : {}), at: key(row) });
  const rows = page.rows.filter((row) => !reason || row.reason === reason); // until those of that reason have come
  return html`<${Rows} list=${rows} page=${20} columns=${columns} caption="Dead letters" empty="none of this reason among those that were looked at" row=${(row) => html`<tr key=${key(row)}>
    <td><input type="checkbox" checked=${picked.has(key(row))} disabled=${!allowed} onChange=${() => turn(row)} aria-label=${`select ${row.origin || key(row)}`} /></td>
    <td title=${absolute(row.at_ms / 1000)}><${Ago} at=${row.at_ms / 1000} /></td><td><bdi>${row.origin || `${page.topic}/${row.partition}/${row.offset}`}</bdi></td>
    ${!reason && html`<td class="wide"><bdi>${words.get(row.reason) ?? "one of the rarer reasons"}</bdi></td>`}<td class="num wide">${bytes(row.value_bytes)}</td>
    <td>${allowed ? html`<a href=${at(name, parts(row))} aria-label=${`Look at ${row.origin || key(row)}`}>Look at it</a>` : html`<span class="dim" title=${`needs the role operate over ${asks.model}`}>Look at it</span>`}</td></tr>`} />`;
}

// Its payload is data of somebody: that it was looked at, and by whom, stands in the audit.
function One({ name, partition, offset, back }) {
  const { answer: letter, refused } = useAsked(() => ask(name, "letter", { partition, offset }), `${name} ${partition}-${offset}`);
  return html`<div class="check" role="region" aria-label="One dead letter"><div class="line"><h3>Dead letter ${partition}/${offset}</h3> <a href=${back}>Close</a></div>
    <${Refusal} refused=${refused} asked />
    ${!refused && !letter && html`<p class="empty">…</p>`}
    ${letter && html`<dl class="facts"><dt>record</dt><dd><bdi>${letter.row.origin || "not told"}</bdi></dd>
        <dt>failed at</dt><dd>${STAGES[letter.reason.stage] ?? letter.reason.stage}</dd>
        <dt>why</dt><dd><bdi>${letter.reason.message || "no reason was given"}</bdi></dd>
        <dt>key</dt><dd><bdi>${letter.key || "none"}</bdi></dd><dt>size</dt><dd>${bytes(letter.row.value_bytes)}</dd>
        ${letter.note && html`<dt>note</dt><dd><bdi>${letter.note}</bdi></dd>`}</dl>
      ${letter.shown_as !== "nothing" && html`<h3>Payload${letter.shown_as === "hex" ? ", as hexadecimal" : ""}</h3><pre class="payload" tabindex="0"><code>${letter.value}</code></pre>`}
      ${letter.headers.length > 0 && html`<details><summary>${count(letter.headers.length, "header")}</summary><dl class="facts">${letter.headers.map(([key, value]) => html`<dt><bdi>${key}</bdi></dt><dd><bdi>${value}</bdi></dd>`)}</dl></details>`}
      ${letter.trace && html`<details><summary>Where it failed</summary><pre class="payload" tabindex="0"><code>${letter.trace}</code></pre></details>`}`}</div>`;
}
