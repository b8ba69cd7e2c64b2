// The rollouts of a model before the one that is shown: what became of each, who began it and who or what ended it.
import { html } from "./vendor/preact-htm.js";
import { State, Ago, span } from "./words.js";
import { Rows } from "./parts.js";

const COLUMNS = [["rollout", "num"], ["versions"], ["became"], ["begun"], ["by"], ["took", "num wide"], ["ended by"], ["why"]];

export function Earlier({ told, now }) {
  const list = (told.answer?.rollouts ?? []).filter((rollout) => rollout.id !== now);
  if (!list.length) return null;
  const events = told.answer.audit.filter((event) => event.rollout !== null);
  const by = (found) => found?.actor || "–";
  return html`<section aria-labelledby="earlier"><h2 id="earlier">Earlier rollouts</h2>
    <${Rows} list=${list} page=${10} columns=${COLUMNS} caption="Earlier rollouts" empty="none" row=${(rollout) => {
      const of = events.filter((event) => event.rollout === rollout.id);
      return html`<tr key=${rollout.id}><th scope="row" class="num">${rollout.id}</th><td>${rollout.stable ?? "–"} → ${rollout.candidate}</td><td><${State} word=${rollout.state} /></td>
        <td><${Ago} at=${rollout.started_s} /></td><td><bdi>${by(of[0])}</bdi></td><td class="num wide">${rollout.ended_s ? span(rollout.ended_s - rollout.started_s) : "–"}</td>
        <td><bdi>${by(of.at(-1))}</bdi></td><td><bdi>${rollout.reason}</bdi></td></tr>`;
    }} /></section>`;
}
