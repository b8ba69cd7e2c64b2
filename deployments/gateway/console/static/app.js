// The console: its frame, its addresses, and who is logged in. Everything foreign is shown as text.
import { html, render, useState, useEffect } from "./vendor/preact-htm.js";
import { begin, forget, open, post, useLive } from "./live.js";
import { span, absolute, useSecond } from "./words.js";
import { Refusal } from "./parts.js";
import { Audit } from "./audit.js";
import { Batch } from "./batch.js";
import { Model } from "./model.js";
import { Overview } from "./overview.js";
import { Rollout } from "./rollout.js";
import { Stream } from "./stream.js";
import { VersionPage } from "./versions.js";

const PAGES = { "": Overview, rollout: Rollout, model: Model, versions: VersionPage, stream: Stream, batch: Batch, audit: Audit };
const TABS = [
  ["", "Overview"],
  ["audit", "Audit"],
];

const GLITCH_MS = 2500; // so long a connection may be away before anybody is told: a gateway that is replaced takes less

function where() {
  const [path, asked = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  const query = new URLSearchParams(asked);
  try {
    return { page, name: decodeURIComponent(rest.join("/")), query };
  } catch {
    return { page: "", name: "", query };
  }
}

let place = null; // where the viewer is: known once the page is drawn, for a link may lead elsewhere before that

function App() {
  const live = useLive();
  const [at, go] = useState(() => (place = where()));
  useEffect(() => {
    const moved = () => {
      const [before, now] = [place, where()];
      go((place = now));
      if (before.page === now.page && before.name === now.name) return; // another part of the same page
      scrollTo(0, 0);
      document.querySelector("main")?.focus();
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const Page = PAGES[at.page] ?? Missing;
  const login = at.page === "login" || live.refused;
  useEffect(() => {
    document.title = [at.name, "Headrace"].filter(Boolean).join(" – ");
  }, [at.page, at.name]);
  return html`<header><a class="brand" href="#/">Headrace</a>
      <nav aria-label="Pages">${TABS.map(([page, name]) => html`<a href=${`#/${page}`} aria-current=${at.page === page ? "page" : null}>${name}</a>`)}</nav>
      <${Who} /><${Theme} /></header>
    <${Banner} />
    <main tabindex="-1" class=${live.lost ? "old" : ""}>${
      login ? html`<${Login} />` : !live.told ? html`<p class="opening">Waiting for the first picture…</p>` : html`<${Page} name=${at.name} query=${at.query} key=${`${at.page}/${at.name}`} />`
    }</main>`;
}

function Missing() {
  return html`<h1>Nothing here</h1><p>There is no such page. <a href="#/">Back to the overview</a></p>`;
}

// The last picture stays, and says since when it is old.
function Banner() {
  const live = useLive();
  useSecond();
  const house = live.rows.get("house");
  const away = house?.away_s ? house.away_s * 1000 : null;
  const lost = live.lost && Date.now() - live.lost > GLITCH_MS ? live.lost : null;
  const since = lost ?? away;
  if (!since || live.refused) return html`<div role="status"></div>`;
  const what = lost ? "The gateway can't be reached" : "The controller is away";
  const rest = lost ? "this page tries again by itself" : "what is served goes on; it is restarted by itself";
  const at_s = since / 1000;
  return html`<div role="status" class="banner">${what} since <time title=${absolute(at_s)}>${span(Date.now() / 1000 - at_s)}</time>: what you see is as it was then; ${rest}.</div>`;
}

function Who() {
  const live = useLive();
  if (!live.me) return null;
  async function leave() {
    await post("logout", {});
    forget();
    await open();
  }
  return html`<div class="who">${live.me.anonymous ? html`<a href="#/login">Log in</a>` : html`<span title="who the audit names"><bdi>${live.me.name}</bdi></span>`}
    ${live.me.session && html` <button type="button" onClick=${leave}>Log out</button>`}</div>`;
}

function Theme() {
  const [dark, set] = useState(document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches));
  function turn() {
    const theme = dark ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("headrace-theme", theme);
    set(!dark);
    dispatchEvent(new Event("theme"));
  }
  return html`<button type="button" class="theme" onClick=${turn} aria-label=${dark ? "Light colours" : "Dark colours"}>${dark ? "☀" : "☾"}</button>`;
}

function Login() {
  const live = useLive();
  const [state, set] = useState({ busy: false, refused: null });
  async function enter(event) {
    event.preventDefault();
    const key = new FormData(event.target).get("key");
    set({ busy: true, refused: null });
    try {
      await logIn({ key });
    } catch (refused) {
      set({ busy: false, refused });
    }
  }
  const refused = state.refused ?? (linkRefused || null);
  return html`<form class="login" onSubmit=${enter}><h1>Log in</h1>
    <p>${live.refused ? "Here only who is known may look." : "You may look around without a key; what changes anything needs one."}</p>
    <input type="text" name="username" value="headrace" autocomplete="username" hidden /><label for="key">Key</label><input id="key" name="key" type="password" autocomplete="current-password" spellcheck=${false} placeholder="hr_…" required />
    <${Refusal} refused=${refused} asked />
    <div class="buttons"><button class="strong" disabled=${state.busy}>Log in</button></div>
    <p class="dim">Or open the link that <code>headrace up</code> prints. The key does not stay here: a session of twelve hours takes its place, and ends with it.</p></form>`;
}

let linkRefused = null;

async function logIn(told) {
  await post("login", told);
  forget();
  await open();
  location.hash = "#/";
}

async function start() {
  const theme = localStorage.getItem("headrace-theme");
  if (theme) document.documentElement.dataset.theme = theme;
  const code = location.hash.match(/^#code=(.+)$/)?.[1];
  if (code) {
    history.replaceState(null, "", location.pathname); // a code is good once: it is not to stay in the address
    await post("login", { code }).catch((refused) => {
      linkRefused = refused;
      location.hash = "#/login";
    });
  }
  const app = document.getElementById("app");
  app.replaceChildren();
  render(html`<${App} />`, app);
  begin();
}

start();
