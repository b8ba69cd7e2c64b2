// Numbers, times and states in words. Pure, but for the clock.
import { html, useState, useEffect } from "./vendor/preact-htm.js";
import { now_s } from "./live.js";

export function number(value, digits = 3) {
  if (value === undefined || value === null) return "–";
  if (value === 0) return "0";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(digits)).toString();
}

export function percent(share) {
  return `${Number((100 * share).toPrecision(3))} %`;
}

export function milliseconds(seconds) {
  if (seconds === undefined || seconds === null) return "–";
  return seconds >= 1 ? `${number(seconds)} s` : `${number(1000 * seconds)} ms`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) [value, at] = [value / 1024, at + 1];
  return `${number(value)} ${units[at]}`;
}

const SIZES = [
  [86400, "d", 3600, "h"],
  [3600, "h", 60, "m"],
  [60, "m", 1, "s"],
];

export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [size, name, step, lower] of SIZES)
    if (whole >= size) return `${Math.floor(whole / size)} ${name} ${Math.floor((whole % size) / step)} ${lower}`;
  return `${whole} s`;
}

export const absolute = (at_s) =>
  new Date(at_s * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });

export function useSecond() {
  const [, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => again((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, []);
}

// How long ago, or how long still; the moment itself in the viewer's zone on hover.
export function Ago({ at }) {
  useSecond();
  const left = at - now_s();
  const words = left > 0 ? `in ${span(left)}` : `${span(-left)} ago`;
  return html`<time dateTime=${new Date(at * 1000).toISOString()} title=${absolute(at)}>${words}</time>`;
}

export function Left({ until, over = "now" }) {
  useSecond();
  const left = until - now_s();
  return html`<time dateTime=${new Date(until * 1000).toISOString()} title=${absolute(until)}>${left > 0 ? span(left) : over}</time>`;
}

// What stands between backticks is a command or a name.
export function Words({ text }) {
  return String(text).split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));
}

const GOOD = new Set(["ready", "running", "promoted", "passed", "succeeded", "alive", "declared", "stable", "published"]);
const BAD = new Set(["failed", "unhealthy", "dead", "rolled_back", "stopped", "broken"]);
const MOVING = new Set(["pending", "warming", "shadow", "canary", "waiting", "starting", "submitted", "publishing"]);
const MARKS = { good: "●", bad: "▲", move: "◐", soft: "◆" };

export function State({ word, of = word }) {
  const kind = GOOD.has(of) ? "good" : BAD.has(of) ? "bad" : MOVING.has(of) ? "move" : "soft";
  return html`<span class="state ${kind}"><span aria-hidden="true">${MARKS[kind]}</span> ${String(word).replaceAll("_", " ")}</span>`;
}

export const count = (many, one, several = `${one}s`) => `${many.toLocaleString("en")} ${many === 1 ? one : several}`;
