// A rollout being proven: where it stands, what it waits for, each check against its margin, and who did what.
import { html, useEffect } from "./vendor/preact-htm.js";
import { useLive, checkLine, seed, history, command, changed } from "./live.js";
import { number, percent, State, Ago, Left, span } from "./words.js";
import { Action, Command, Lacking, Nothing, link } from "./parts.js";
import { Steps } from "./steps.js";
import { Interval } from "./chart.js";
import { Told } from "./told.js";
import { Earlier } from "./earlier.js";
import { useAsked } from "./calling.js";

export function Rollout({ name }) {
  const live = useLive();
  const model = live.rows.get(`model/${name}`);
  if (!model) return html`<${Nothing} kind="model" name=${name} />`;
  if (!model.rollout)
    return html`<h1><bdi>${name}</bdi></h1><p class="empty">It has had no rollout yet. A new version begins one by itself:
      <${Command} text="headrace build -f model.yaml" /></p>`;
  return html`<${Shown} model=${model} glance=${model.rollout} />`;
}

function Shown({ model, glance }) {
  const { rollout } = glance;
  const active = rollout.ended_s === null;
  const told = useAsked(() => command("rollout.history", { model: model.name }), `${model.name} ${rollout.id} ${rollout.state} ${rollout.step} ${glance.held}`);
  return html`<h1><a href=${link("model", model.name)}><bdi>${model.name}</bdi></a> version ${rollout.stable ?? "–"} → ${rollout.candidate}
      ${" "}<${State} word=${glance.held ? "waits for a person" : rollout.state} of=${glance.held ? "held" : rollout.state} /></h1>
    <p class="dim">rollout ${rollout.id}, begun <${Ago} at=${rollout.started_s} />${
      active
        ? html`, ${number(rollout.weight)} % of traffic to version ${rollout.candidate}${rollout.shadow ? `, ${number(rollout.shadow)} % in shadow` : ""}`
        : html`, ended <${Ago} at=${rollout.ended_s} /> after ${span(rollout.ended_s - rollout.started_s)}`
    }</p>
    <${Steps} glance=${glance} />
    ${rollout.reason && html`<p><b><bdi>${rollout.reason}</bdi></b></p>`}
    ${active && !glance.held && html`<${Waits} glance=${glance} />`}
    ${active && html`<${Moves} model=${model} glance=${glance} />`}
    ${active && html`<${Checks} model=${model} rollout=${rollout} />`}
    <section aria-labelledby="who"><h2 id="who">Who did what</h2>
      <${Told} told=${told} rollout=${rollout.id} /></section>
    <${Earlier} told=${told} now=${rollout.id} />
    <p class="dim"><a href=${link("audit", model.name)}>All that was done to it</a>. The same in a terminal: <${Command} text=${`headrace rollout status ${model.name} --watch`} /></p>`;
}

function Waits({ glance }) {
  const { preflight } = glance.rollout;
  return html`<dl class="facts"><dt>waits for</dt><dd>${glance.waits_for}</dd>
    ${preflight && html`<dt>preflight</dt><dd><bdi>${preflight}</bdi></dd>`}
    ${glance.bake_ends_s !== null && html`<dt>step lasts at least</dt><dd><${Left} until=${glance.bake_ends_s} over="its time is over" /></dd>`}
    ${glance.deadline_s !== null && html`<dt>${glance.on_deadline === "rollback" ? "taken back" : "held for a person"} in</dt>
      <dd><${Left} until=${glance.deadline_s} over="its deadline has passed" /> <span class="dim">unless it is proven by then</span></dd>`}</dl>`;
}

function Moves({ model, glance }) {
  const { rollout } = glance;
  const seen = { rollout: rollout.id, state: rollout.state, step: rollout.step };
  const move = (what) => () => command(`rollout.${what}`, { model: model.name, seen });
  const candidate = `version ${rollout.candidate}`, stable = rollout.stable === null ? null : `version ${rollout.stable}`;
  const open = rollout.checks.filter((check) => check.verdict !== "passed");
  const split = rollout.weight ? `${number(rollout.weight)} % of traffic stays with ${candidate}` : `${candidate} gets no traffic, as now`;
  const ready = model.apps.some((app) => app.version === rollout.candidate && app.status === "ready");
  const asks = { role: "operate", model: model.name };
  return html`<div class="buttons">
      ${rollout.paused
        ? html`<${Action} ...${asks} label="Resume" run=${move("resume")} effect=${`It goes on from step ${rollout.step} of ${rollout.steps}; the time it was paused counts neither for the step nor towards its deadline.`} />`
        : html`<${Action} ...${asks} label="Pause" run=${move("pause")} effect=${`${split} until somebody resumes it. Proven harm still takes it back.`} />`}
      <${Action} ...${asks} label="Promote" kind="promote" run=${move("promote")} away=${ready ? "" : `${candidate} is not ready`} effect=${[
        `${candidate} becomes stable now and gets all traffic, whatever its checks say.`,
        open.length ? `Not passed so far: ${open.map((check) => check.name.replaceAll("_", " ")).join(", ")}.` : "All its checks have passed so far.",
        stable ? `${stable} stays warm for a while, so the way back is quick: \`headrace rollout start ${model.name} --version ${rollout.stable} --plan instant\`.` : "There is no version to go back to.",
      ]} />
      <${Action} ...${asks} label="Abort" kind="danger" run=${move("abort")} effect=${stable ? `All traffic goes back to ${stable} now, and the replicas of ${candidate} end.` : `${candidate} is given up, and nothing serves.`} /></div>
    <${Lacking} ...${asks} />`;
}

function Checks({ model, rollout }) {
  const key = `model/${model.name}`;
  const names = rollout.checks.map((check) => check.name).join(" ");
  useEffect(() => {
    history({ subject: "model", name: model.name, since_s: rollout.started_s })
      .then((lines) => {
        for (const check of rollout.checks) {
          const [low, high] = ["low", "high"].map((end) => lines.find((line) => line.figure === `${check.name}_${end}`));
          if (low && high) seed(checkLine(key, rollout.id, check.name), low.t, { low: low.values, high: high.values });
        }
        changed();
      })
      .catch(() => null);
  }, [rollout.id, names]);
  if (!rollout.checks.length) return html`<p class="empty">Checks begin with the first step.</p>`;
  return html`<section aria-labelledby="checks"><h2 id="checks">Checks</h2>
    ${rollout.checks.map((check) => html`<${Check} check=${check} line=${checkLine(key, rollout.id, check.name)} key=${check.name} />`)}</section>`;
}

function Check({ check, line }) {
  const title = check.name.replaceAll("_", " ");
  const words = check.words.replace(`${title}: `, "").replace(`: ${check.verdict}`, "");
  return html`<div class="check"><div class="line"><h3>${title}</h3> <span>${words}</span> <${State} word=${check.verdict} /></div>
    ${line.t.length > 1
      ? html`<${Interval} line=${line} margin=${check.margin} label=${`${title} over time: the difference lies between ${percent(check.low)} and ${percent(check.high)}; ${percent(check.margin)} is allowed`} />`
      : html`<p class="empty">drawn as soon as something is observed</p>`}
    <p class="dim">the difference lies between ${percent(check.low)} and ${percent(check.high)}, whenever one looks; up to ${percent(check.margin)} is allowed (dashed). It passes below that line, and fails above it. Observed of the candidate: ${check.observed.toLocaleString("en")}.</p></div>`;
}
