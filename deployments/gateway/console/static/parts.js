// What several pages are made of.
import { html, useState, useEffect, useRef } from "./vendor/preact-htm.js";
import { live, may } from "./live.js";
import { Words, Ago } from "./words.js";

export function Spark({ values, label }) {
  const shown = values.length > 1 ? values : [];
  const top = Math.max(...shown, 1e-9);
  const step = 100 / Math.max(shown.length - 1, 1);
  const points = shown.map((v, i) => `${(i * step).toFixed(1)},${(19 - (17 * Math.max(v, 0)) / top).toFixed(1)}`).join(" ");
  return html`<svg class="spark" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label=${label}>
    ${shown.length > 0 && html`<polyline points=${points} vector-effect="non-scaling-stroke" />`}</svg>`;
}

export function Command({ text, shown = text }) {
  const [copied, say] = useState(false);
  async function copy() {
    await navigator.clipboard.writeText(text).catch(() => null);
    say(true);
    setTimeout(() => say(false), 1500);
  }
  return html`<span class="command"><code title=${text}>${shown}</code
    ><button type="button" class="copy" onClick=${copy} aria-label=${`Copy: ${text}`}>${copied ? "copied" : "copy"}</button></span>`;
}

export const link = (kind, name) => `#/${kind}/${encodeURIComponent(name)}`;

const SEVERITIES = { broken: ["▲", "broken"], waiting: ["◆", "waits"], note: ["●", "note"] };

export function Wrong({ list }) {
  return html`<ul class="wrong">${list.map(
    ({ where, kind, name, one }) => html`<li class=${one.severity} key=${`${where} ${one.words}`}>
      <span class="mark"><span aria-hidden="true">${SEVERITIES[one.severity][0]}</span> ${SEVERITIES[one.severity][1]}</span>
      <div><a href=${link(kind, name)}><bdi>${where}</bdi></a>: <bdi>${one.words}</bdi>
        ${one.since_s ? html` <span class="dim"><${Ago} at=${one.since_s} /></span>` : null}
        ${one.until_s ? html` <span class="dim">tried again <${Ago} at=${one.until_s} /></span>` : null}
        ${one.remedy && html`<div class="remedy"><${Words} text=${one.remedy} /></div>`}</div></li>`,
  )}</ul>`;
}

// A button that says why it can't be pressed, and asks before it does anything.
export function Action({ role, model, label, effect, run, away = "", kind = "" }) {
  const [asked, ask] = useState(null); // as it stood when the button was pressed: what is done is what was decided about
  const allowed = may(role, model);
  const why = allowed ? away : `needs the role ${role} over ${model}`;
  return html`<button type="button" class=${kind} disabled=${!!why} title=${why} onClick=${() => ask({ effect, run })}>${label}</button>
    ${asked && html`<${Confirm} label=${label} effect=${asked.effect} run=${asked.run} done=${() => ask(null)} kind=${kind} />`}`;
}

export function Lacking({ role, model }) {
  if (may(role, model)) return null;
  const who = live.me?.anonymous ? "nobody is logged in" : `you are ${live.me?.name}`;
  return html`<p class="lacking">Buttons need the role <b>${role}</b> over <bdi>${model}</bdi>; ${who}.
    ${live.me?.anonymous && html` <a href="#/login">Log in</a>, or open the link that <code>headrace up</code> prints.`}</p>`;
}

function Confirm({ label, effect, run, done, kind }) {
  const dialog = useRef();
  const [state, set] = useState({ busy: false, refused: null });
  useEffect(() => dialog.current.showModal(), []);
  async function go() {
    set({ busy: true, refused: null });
    try {
      await run();
      done();
    } catch (refused) {
      set({ busy: false, refused });
    }
  }
  const stale = state.refused?.status === 409;
  return html`<dialog ref=${dialog} onClose=${done} aria-labelledby="asked">
    <h2 id="asked">${label}?</h2>
    ${[effect].flat().map((line) => html`<p><${Words} text=${line} /></p>`)}
    ${state.refused && html`<p class="refused" role="alert"><b>${stale ? "Not done: " : "Refused: "}</b>${state.refused.message}.
      ${state.refused.remedy && html` <${Words} text=${state.refused.remedy} />`}</p>`}
    <div class="buttons"><button type="button" onClick=${() => dialog.current.close()} autofocus>${stale ? "Close" : "Cancel"}</button>
      ${!stale && html`<button type="button" class=${`strong ${kind}`} disabled=${state.busy} onClick=${go}>${label}</button>`}</div>
  </dialog>`;
}

// Rows fifty at a time: a thousand models are found by the filter, not by scrolling. With another filter (`of`) it begins anew.
export function Rows({ list, columns, row, caption, empty, page = 50, of = "" }) {
  const [wanted, want] = useState({ most: page, of });
  const most = wanted.of === of ? wanted.most : page;
  const shown = list.slice(0, most);
  if (!list.length) return html`<p class="empty">${empty}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${`${caption}, as a table`}><table><caption class="unseen">${caption}</caption>
    <thead><tr>${columns.map(([name, kind]) => html`<th scope="col" class=${kind ?? ""}>${name}</th>`)}</tr></thead>
    <tbody>${shown.map(row)}</tbody></table></div>
    ${list.length > most && html`<p class="more"><button type="button" onClick=${() => want({ most: most + page, of })}>Show ${page} more</button>
      <span class="dim">${most} of ${list.length.toLocaleString("en")} shown</span></p>`}`;
}

// Why something was not answered, and what to do; said aloud where it was `asked` for just now.
export function Refusal({ refused, asked = false }) {
  return refused && html`<p class="refused" role=${asked ? "alert" : null}>${refused.message}. <${Words} text=${refused.remedy ?? ""} /></p>`;
}

export function Nothing({ kind, name }) {
  return html`<h1><bdi>${name}</bdi></h1><p class="empty">There is no such ${kind}, or you may not see it. <a href="#/">Overview</a></p>`;
}

export function Document({ spec }) {
  return html`<details><summary>As it was applied</summary><pre tabindex="0"><code>${JSON.stringify(spec, null, 2)}</code></pre></details>`;
}
