// The audit of a model: who or which check did what, when, and from which evidence.
import { html, useState, useEffect } from "./vendor/preact-htm.js";
import { command } from "./live.js";
import { Ago, absolute, Words } from "./words.js";
import { Rows } from "./parts.js";

// `mark` changes when there may be more to read. With `rollout`, what is about that one alone; with `only`, what that
// says yes to.
export function Told({ model, mark, rollout = null, filter = "", only = null }) {
  const [state, set] = useState({ events: null, refused: null });
  useEffect(() => {
    let there = true;
    command("rollout.history", { model })
      .then((told) => there && set({ events: told.audit, refused: null }))
      .catch((refused) => there && set({ events: [], refused }));
    return () => (there = false);
  }, [model, mark]);
  if (state.events === null) return html`<p class="empty">…</p>`;
  if (state.refused) return html`<p class="refused">${state.refused.message}. <${Words} text=${state.refused.remedy} /></p>`;
  const wanted = filter.toLowerCase();
  const events = state.events
    .filter((event) => rollout === null || event.rollout === rollout)
    .filter((event) => only === null || only(event))
    .filter((event) => !wanted || `${event.event} ${event.actor} ${why(event.detail)}`.toLowerCase().includes(wanted))
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
