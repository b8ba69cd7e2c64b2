// What the gateway tells: one stream of events, kept as rows by key; and what pages ask of it.
import { useState, useEffect } from "./vendor/preact-htm.js";

const RECENT = 60; // points of a small line, ten seconds each
const KEPT = 400; // points of any line: an hour and more
const CHECKED = 2000; // points of a check's interval
const HIDDEN_MS = 20_000; // a browser has six connections to a host, for all its tabs

export const live = {
  rows: new Map(),
  me: null,
  refused: null, // why nobody is let in without logging in
  told: false, // whether the first picture has come
  lost: null, // since when nothing is heard, in ms
  skew: 0, // the server's clock less ours, in s
  series: new Map(), // by `model/NAME requests_s`: {t, v}
  checks: new Map(), // by `model/NAME rollout check`: {t, low, high}
};

const listeners = new Set();
let queued = false;

export function changed() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    for (const listen of [...listeners]) listen();
  });
}

export function useLive() {
  const [, again] = useState(0);
  useEffect(() => {
    const listen = () => again((n) => n + 1);
    listeners.add(listen);
    return () => listeners.delete(listen);
  }, []);
  return live;
}

export const now_s = () => Date.now() / 1000 + live.skew;

export const of = (kind) => {
  const begins = `${kind}/`;
  return [...live.rows].filter(([key]) => key.startsWith(begins)).map(([, row]) => row);
};

// Rights, as the controller has them: it has the last word.
export function may(role, model) {
  return (live.me?.grants ?? []).some(
    (grant) => grant.roles.includes(role) && grant.models.some((pattern) => matches(pattern, model)),
  );
}

function matches(pattern, model) {
  const parts = pattern.split("*").map((part) => part.replace(/[.]/g, "\\."));
  return new RegExp(`^${parts.join(".*")}$`).test(model);
}

export class Refused extends Error {
  constructor(status, told) {
    super(told?.what ?? `the gateway answers ${status}`);
    this.status = status;
    this.remedy = told?.remedy ?? "";
  }
}

async function answered(response) {
  const told = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(response.status, told?.error);
  return told;
}

export async function post(path, body) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return answered(await fetch(path, options));
}

export const command = (name, body) => post(`control/${name}`, body);

// What a stream's page asks beyond commands, such as its dead letters.
export const askStream = (name, question, body) => post(`streams/${encodeURIComponent(name)}/${question}`, body);

export async function history(asked) {
  const told = await command("metrics.history", asked);
  return told.lines.map((line) => ({ ...line, t: told.at_s }));
}

let source = null;
let lastId = "";
let sleeping = null;

export async function open() {
  try {
    live.me = await answered(await fetch("me"));
    live.refused = null;
  } catch (error) {
    if (error.status === 401) {
      live.me = null;
      live.refused = error;
      changed();
      return;
    }
    lose();
    setTimeout(open, 2000);
    return;
  }
  listenOn();
  changed();
}

export function begin() {
  document.addEventListener("visibilitychange", () => {
    clearTimeout(sleeping);
    if (document.hidden) {
      sleeping = setTimeout(() => {
        source?.close();
        source = null;
      }, HIDDEN_MS);
    } else if (source === null && live.me) {
      listenOn();
    }
  });
  open();
}

export function forget() {
  source?.close();
  source = null;
  lastId = "";
  live.rows = new Map();
  live.told = false;
}

function listenOn() {
  source?.close();
  source = new EventSource(lastId ? `events/${lastId}` : "events");
  source.addEventListener("picture", (event) => take(event, true));
  source.addEventListener("change", (event) => take(event, false));
  source.onopen = () => {
    live.lost = null;
    changed();
  };
  source.onerror = () => {
    lose();
    if (source?.readyState === EventSource.CLOSED) {
      source = null;
      setTimeout(open, 2000);
    }
  };
}

function lose() {
  live.lost ??= Date.now();
  changed();
}

function take(event, whole) {
  const told = JSON.parse(event.data);
  lastId = event.lastEventId;
  live.skew = told.now_s - Math.floor(Date.now() / 1000);
  const rows = new Map(whole ? [] : live.rows);
  for (const key of told.gone) rows.delete(key);
  for (const [key, row] of Object.entries(told.rows)) {
    rows.set(key, row);
    note(key, row, told.now_s);
  }
  live.rows = rows;
  live.told = true;
  live.lost = null;
  changed();
}

const steps = new WeakMap(); // the step that a check's line was in last

function note(key, row, at) {
  for (const figure of ["requests_s", "lag_records", "records_s", "p99_s", "failed_requests_s"]) {
    const value = row.figures?.[figure];
    if (value === undefined) continue;
    const line = lineOf(key, figure);
    if (at - (line.t.at(-1) ?? 0) < 9) continue;
    line.t.push(at);
    line.v.push(value);
    cut(line, KEPT);
  }
  const rollout = row.rollout?.rollout;
  for (const check of rollout?.checks ?? []) {
    const line = checkLine(key, rollout.id, check.name);
    if (line.t.at(-1) >= at || check.observed === 0) continue;
    const points = [[at, check.low, check.high]];
    // A step begins with no evidence: the line of the one before ends there.
    if (line.t.length && steps.get(line) !== rollout.step) points.unshift([at - 0.5, null, null]);
    steps.set(line, rollout.step);
    for (const [t, low, high] of points) {
      line.t.push(t);
      line.low.push(low);
      line.high.push(high);
    }
    cut(line, CHECKED);
  }
}

function cut(line, most) {
  if (line.t.length > most) for (const each of Object.values(line)) each.splice(0, each.length - most);
}

export function lineOf(key, figure) {
  const name = `${key} ${figure}`;
  if (!live.series.has(name)) live.series.set(name, { t: [], v: [] });
  return live.series.get(name);
}

export function checkLine(key, rollout, check) {
  const name = `${key} ${rollout} ${check}`;
  if (!live.checks.has(name)) live.checks.set(name, { t: [], low: [], high: [] });
  return live.checks.get(name);
}

// Puts what was before this page was opened in front of what it has seen.
export function seed(line, t, columns) {
  const until = line.t[0] ?? Infinity;
  const kept = t.map((at, i) => [at, i]).filter(([at, i]) => at < until && Object.values(columns).every((c) => c[i] != null));
  line.t.unshift(...kept.map(([at]) => at));
  for (const [name, values] of Object.entries(columns)) line[name].unshift(...kept.map(([, i]) => values[i]));
}

const seeded = new Set();

export async function seedLines(figure, since_s) {
  if (seeded.has(figure)) return;
  seeded.add(figure);
  for (const line of await history({ figure, since_s: now_s() - since_s }))
    seed(lineOf(`${line.subject}/${line.name}`, figure), line.t, { v: line.values });
  changed();
}

export const recent = (line) => line.v.slice(-RECENT);
