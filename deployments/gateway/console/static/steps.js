// The steps of a rollout as a bar: what is behind it, where it stands, what is to come.
import { html } from "./vendor/preact-htm.js";
import { number } from "./words.js";

export function Steps({ glance, small = false }) {
  const { rollout, steps } = glance;
  const promoted = rollout.state === "promoted";
  const ended = rollout.ended_s !== null;
  return html`<ol class=${small ? "steps small" : "steps"} aria-label="Steps">${steps.map((step, i) => {
    const at = i + 1;
    const state = promoted || at < rollout.step ? "done" : at === rollout.step ? (ended ? "ended" : "now") : "ahead";
    const name = step.shadow ? `shadow ${number(step.shadow)} %` : `${number(step.weight)} %`;
    const said = { done: "passed", now: "under way", ended: "ended here", ahead: "to come" }[state];
    return html`<li class=${state} aria-current=${state === "now" ? "step" : null}><span>${name}</span>
      <span class=${small ? "unseen" : "dim"}>${said}</span></li>`;
  })}</ol>`;
}
