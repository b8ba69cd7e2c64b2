// The audit of a model: who or which check did what, when, and from which evidence.
import { html } from "./vendor/preact-htm.js";
import { Ago, absolute } from "./words.js";
import { Refusal, Rows } from "./parts.js";

// `told` is what was asked of `rollout.history`. With `rollout`, what is about that one alone; with `only`, what that says yes to.
export function Told({ told, rollout = null, only = null }) {
  if (told.refused) return html`<${Refusal} refused=${told.refused} />`;
  if (!told.answer) return html`<p class="empty">…</p>`;
  const events = told.answer.audit
    .filter((event) => rollout === null || event.rollout === rollout)
    .filter((event) => only === null || only(event))
    .reverse();
  return html`<${Rows} list=${events} page=${50} columns=${[["when"], ["rollout", "num"], ["event"], ["by"], ["why, and from which evidence"]]} caption="Audit" empty="nothing yet" row=${(event, i) => html`<tr key=${`${event.at_s} ${i}`}>
    <td title=${absolute(event.at_s)}><${Ago} at=${event.at_s} /></td><td class="num">${event.rollout ?? "–"}</td><td>${event.event.replaceAll("_", " ")}</td>
    <td><bdi>${event.actor || "–"}</bdi></td><td>${why(event.detail, only ? ["kind", "name"] : []).split("\n").map((line) => html`<div><bdi>${line}</bdi></div>`)}</td></tr>`} />`;
}

// `known` are names of what the page says already.
export function why(detail, known = []) {
  const checks = (detail.checks ?? []).map(String);
  const reason = checks.some((check) => check.startsWith(detail.reason ?? "\0")) ? "" : (detail.reason ?? "");
  const rest = Object.entries(detail).filter(([name, value]) => !["checks", "reason", ...known].includes(name) && value !== null);
  const words = rest.map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  return [words, reason, ...checks].filter(Boolean).join("\n");
}
