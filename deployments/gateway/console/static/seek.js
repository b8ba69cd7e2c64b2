// Moving a stream: what it would skip or repeat is shown before anything is done, and nothing else is done.
import { html, useState } from "./vendor/preact-htm.js";
import { askStream as ask } from "./live.js";
import { absolute, count } from "./words.js";
import { Action, Command, Refusal, Rows } from "./parts.js";

const COLUMNS = [["partition"], ["stands at", "num"], ["goes on at", "num"], ["skips up to", "num"], ["repeats up to", "num"]];

export function Seek({ name, asks, paused }) {
  const [to, choose] = useState("earliest");
  const [time, setTime] = useState("");
  const [state, set] = useState({ plan: null, refused: null, busy: false });
  const forget = () => set({ plan: null, refused: null, busy: false });
  async function look(event) {
    event.preventDefault();
    set({ plan: null, refused: null, busy: true });
    try {
      const where = to === "time" ? new Date(time).toISOString() : to;
      set({ plan: await ask(name, "preview", { to: where }), refused: null, busy: false });
    } catch (refused) {
      set({ plan: null, refused, busy: false });
    }
  }
  return html`<section aria-labelledby="seek"><h2 id="seek">Move it to another place of its input</h2>
    <form class="filter" onSubmit=${look}><label for="to">Go to</label>
      <select id="to" value=${to} onChange=${(e) => (choose(e.target.value), forget())}><option value="earliest">the first record there is</option><option value="latest">the end: skip what waits</option><option value="time">a time</option></select>
      ${to === "time" && html`<label class="unseen" for="when">Time</label><input id="when" type="datetime-local" step="1" required value=${time} onInput=${(e) => (setTime(e.target.value), forget())} />`}
      <button disabled=${state.busy}>Preview</button></form>
    <${Refusal} refused=${state.refused} asked />
    ${state.busy && html`<p class="empty">Asking the broker…</p>`}
    ${state.plan && html`<${Plan} name=${name} asks=${asks} paused=${paused} plan=${state.plan} done=${forget} />`}
    ${!state.plan && html`<p class="dim">A preview says of each partition what would be skipped or scored again; nothing moves by it. In a terminal: <${Command} text=${`headrace stream seek ${name} --to earliest`} /></p>`}</section>`;
}

const sum = (parts, what) => parts.reduce((all, part) => all + part[what], 0);

function Plan({ name, asks, paused, plan, done }) {
  const { parts, seen } = plan;
  const skips = sum(parts, "skips"), repeats = sum(parts, "repeats");
  const words = [skips && `${count(skips, "record")} would never be scored`, repeats && `${count(repeats, "record")} would be scored and answered again`].filter(Boolean).join(", ");
  const send = { plan: { to: plan.to, parts: parts.map(({ partition, at, to, at_ms, to_ms }) => ({ partition, at, to, at_ms, to_ms })) }, seen };
  const effect = [
    skips ? `Up to ${count(skips, "record")} are skipped: they are never scored, unless it is moved back.` : "Nothing is skipped.",
    repeats ? `Up to ${count(repeats, "record")} are scored again, and answered again in its output.` : "Nothing is scored again.",
    paused ? "It is paused, and stays so: it goes on there once it is resumed." : "It is stopped for that, for a minute at most, and then runs again. What it scores until it stops comes on top of what is repeated.",
  ];
  return html`<p role="status"><b>${words || "Nothing would change: it stands there already."}</b></p>
    <${Rows} list=${parts} page=${50} columns=${COLUMNS} caption="What a seek would do" empty="its input has no partitions" row=${(part) => html`<tr key=${part.partition}>
      <th scope="row"><bdi>${part.partition}</bdi></th><td class="num"><${Place} offset=${part.at} at_ms=${part.at_ms} /></td><td class="num"><${Place} offset=${part.to} at_ms=${part.to_ms} /></td>
      <td class=${`num ${part.skips ? "bad" : ""}`}>${part.skips.toLocaleString("en")}</td><td class="num">${part.repeats.toLocaleString("en")}</td></tr>`} />
    <div class="buttons"><${Action} ...${asks} label="Seek" kind=${skips ? "danger" : ""} away=${words ? "" : "it stands there already"} effect=${effect} run=${() => ask(name, "seek", send).then(done)} /></div>
    <p class="dim">Offsets may hold no record, so these are the most there can be.</p>`;
}

function Place({ offset, at_ms }) {
  if (offset === null) return html`<span class="dim">nowhere yet</span>`;
  return html`${offset.toLocaleString("en")}<div class="dim">${at_ms === null ? "the end" : absolute(at_ms / 1000)}</div>`;
}
