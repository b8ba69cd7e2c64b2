// What a version's rows looked like when it was built, and what moves its answers: bars, of one version or of two side by side.
import { html } from "./vendor/preact-htm.js";
import { number, percent } from "./words.js";
import { Rows } from "./parts.js";

const FIRST = 12;

export function Importance({ sides }) {
  const told = sides.filter(({ about }) => about?.importance);
  if (!told.length) return null;
  return html`<section aria-labelledby="importance"><h2 id="importance">What moves its answers</h2><div class="charts">${told.map(({ number: version, about }) => html`<div key=${version}>
    <h3>version ${version} <span class="dim">mean part in ${about.importance.importance_rows} answers${about.importance.scale === "log_odds" ? ", in log-odds" : ""}</span></h3><${Bars} found=${about.importance.importance.slice(0, FIRST)} version=${version} /></div>`)}</div></section>`;
}

function Bars({ found, version }) {
  const far = Math.max(...found.map((one) => one.high), 1e-12);
  const at = (value) => ((100 * Math.max(value, 0)) / far).toFixed(1);
  return html`<${Rows} list=${found} columns=${[["feature"], ["", ""], ["mean", "num"], ["95 %", "num wide"]]} caption=${`What moves answers of version ${version}`} empty="" row=${(one) => html`<tr key=${one.feature}><th scope="row"><bdi>${one.feature}</bdi></th>
    <td><svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect x="0" y="1" width=${at(one.mean)} height="8" /><path d=${`M${at(one.low)} 5H${at(one.high)}`} /></svg></td>
    <td class="num">${number(one.mean)}</td><td class="num wide">${number(one.low)} to ${number(one.high)}</td></tr>`} />`;
}

export function Profile({ sides }) {
  const told = sides.filter(({ about }) => about?.profile);
  if (!told.length) return null;
  const first = told[0].about.profile;
  return html`<section aria-labelledby="profile"><h2 id="profile">Profile <span class="dim">what rows and answers looked like at the build</span></h2>
    ${told.map(({ number: version, about }) => about.profile.few && html`<p class="dim">Of version ${version} only ${about.profile.rows} rows were looked at: shares are rough.</p>`)}
    ${told.map(({ number: version, about }) => about.profile.kept_back?.length > 0 && html`<p class="dim" key=${`kept ${version}`}>Redacted in version ${version}, as the model's document says: <bdi>${about.profile.kept_back.join(", ")}</bdi></p>`)}
    ${first.tensors.map((all) => shownOf(all, told)).map((tensor) => html`<h3 key=${`${tensor.side} ${tensor.name}`}>${tensor.side} <bdi>${tensor.name}</bdi> <span class="dim">${tensor.datatype}${tensor.features > tensor.shown.length ? `, ${tensor.shown.length} of ${tensor.features.toLocaleString("en")} features` : ""}</span></h3>
      <div class="shapes">${tensor.shown.map((feature) => html`<figure key=${feature.name}><figcaption><bdi>${feature.name}</bdi></figcaption>${told.map(({ number: version, about }) => {
        const same = sameIn(about, tensor)?.shown.find((each) => each.name === feature.name);
        const label = `${feature.name} in version ${version}`;
        return same && html`<div key=${version}>${told.length > 1 && html`<span class="dim">version ${version}</span>`}${same.kind === "numbers" ? html`<${Histogram} of=${same} rows=${about.profile.rows} label=${label} />` : html`<${Categories} of=${same} rows=${about.profile.rows} />`}</div>`;
      })}</figure>`)}</div>`)}</section>`;
}

const sameIn = (about, tensor) => about.profile.tensors.find((each) => each.side === tensor.side && each.name === tensor.name);

// The first few; of two versions those that both tell of come first.
function shownOf(tensor, told) {
  const many = (feature) => told.filter(({ about }) => sameIn(about, tensor)?.shown.some((each) => each.name === feature.name)).length;
  return { ...tensor, shown: [...tensor.shown].sort((a, b) => many(b) - many(a)).slice(0, FIRST) };
}

// Bins between the 0.1 % and the 99.9 % value; what lies outside is told in words.
function Histogram({ of, rows, label }) {
  const most = Math.max(...of.bins, 1), wide = 120 / of.bins.length;
  const outside = [of.missing && `${percent(of.missing / rows)} missing`, of.below + of.above > 0.01 * rows && `${percent((of.below + of.above) / rows)} beyond`].filter(Boolean).join(", ");
  return html`<svg class="shape" viewBox="0 0 120 40" preserveAspectRatio="none" role="img" aria-label=${`${label}: from ${number(of.lo)} to ${number(of.hi)}, mean ${number(of.mean)}`}>${of.bins.map((each, i) => html`<rect key=${i} x=${(i * wide).toFixed(1)} y=${(40 - (38 * each) / most).toFixed(1)} width=${(wide - 0.6).toFixed(1)} height=${((38 * each) / most).toFixed(1)} />`)}</svg>
    <div class="dim">${number(of.lo)} … ${number(of.hi)}, mean ${number(of.mean)}${outside && `; ${outside}`}</div>`;
}

function Categories({ of, rows }) {
  const list = of.other ? [...of.top, ["others", of.other]] : of.top;
  return html`<ul class="shares">${list.map(([name, count]) => html`<li key=${name}><bdi>${name || "(empty)"}</bdi> <span class="dim">${percent(count / rows)}</span></li>`)}</ul>`;
}
