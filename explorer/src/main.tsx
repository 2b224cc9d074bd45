// The page: panes side by side, the bar above them, and where they get their documents.
import { Component, render, type ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { About } from "./about";
import { Latent } from "./latent";
import { Map_ } from "./map";
import { Neuron } from "./neuron";
import { Pair } from "./pair";
import { PaneContext, type Pane } from "./parts";
import { address, panes, type Route } from "./route";
import { LatentRows, PairRows } from "./rows";
import { SentencePage } from "./sentence";
import { embeddedSource, fileSource, serverSource, type Embedded, type Source } from "./source";
import type { Manifest } from "./types";

const VIEWS: Record<Route["view"], () => preact.JSX.Element> = {
  latents: LatentRows, pairs: PairRows, latent: Latent, pair: Pair, neuron: Neuron, map: Map_,
  sentence: SentencePage, about: About,
};
const TABS: [Route["view"], string][] = [
  ["latents", "Latents"], ["pairs", "Pairs"], ["map", "Map"], ["sentence", "Sentence"], ["about", "About"],
];

class Fence extends Component<{ children: ComponentChildren }, { error?: Error }> {
  static getDerivedStateFromError(error: Error) { return { error }; }
  render() {
    const { error } = this.state;
    return error ? <p class="error" role="alert">This view failed ({error.message}): reload the page.</p> : this.props.children;
  }
}

function App({ source, manifest }: { source: Source; manifest: Manifest }) {
  const [routes, setRoutes] = useState(panes);
  useEffect(() => {
    const follow = () => setRoutes(panes());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  useEffect(() => { document.title = `${titled(routes[0], manifest)} · crossproof explorer`; }, [routes]);
  const put = (next: Route[], replace = false) => {
    if (replace) {
      history.replaceState(null, "", address(next));
      setRoutes(next);
    } else {
      location.hash = address(next);
    }
  };
  const last = manifest.dictionaries.length - 1, split = routes.length > 1;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.querySelector<HTMLElement>("main")!.focus(); }}>Skip to content</a>
      <header class="bar">
        <a class="brand" href="#/0/latents">crossproof<span> explorer</span></a>
        <span class="model">{manifest.model}</span>
        <span class="end">
          {split
            ? <button type="button" onClick={() => put([routes[0]])}>One pane</button>
            : <button type="button" onClick={() => put([routes[0], { ...routes[0], dictionary: Math.min(last, routes[0].dictionary === last ? 0 : last) }])}>Side by side</button>}
          <Theme />
        </span>
      </header>
      <main tabIndex={-1} class={split ? "split" : ""} id="main">
        {routes.map((route, at) => (
          <PaneView key={at} source={source} manifest={manifest} route={route} name={split ? `Pane ${at + 1}` : ""}
            put={(next, replace) => put(routes.map((each, i) => (i === at ? next : each)), replace)}
            href={(next) => address(routes.map((each, i) => (i === at ? next : each)))} />
        ))}
      </main>
    </>
  );
}

function titled(route: Route, manifest: Manifest): string {
  const name = manifest.dictionaries[route.dictionary]?.name ?? "";
  return `${route.view}${route.ids.length ? ` ${route.ids.join(" · ")}` : ""} · ${name}`;
}

interface PaneProps {
  source: Source;
  manifest: Manifest;
  route: Route;
  name: string;
  put(route: Route, replace?: boolean): void;
  href(route: Route): string;
}

function PaneView({ source, manifest, route, name, put, href }: PaneProps) {
  const dictionary = Math.min(route.dictionary, manifest.dictionaries.length - 1);
  const pane: Pane = { source, manifest, route: { ...route, dictionary }, go: put, href };
  const View = VIEWS[route.view];
  const shownAs = { latent: "latents", pair: "pairs", neuron: "" }[route.view as string] ?? route.view;
  return (
    <PaneContext.Provider value={pane}>
      <section class="pane" aria-label={name || undefined}>
        <div class="tabs">
          {manifest.dictionaries.length > 1 ? (
            <label class="field"><span class="sr">Dictionary</span>
              <select value={dictionary} onChange={(event) => put({ ...route, dictionary: Number(event.currentTarget.value) })}>
                {manifest.dictionaries.map((each, at) => <option key={at} value={at}>{each.name}</option>)}
              </select></label>
          ) : <span class="only">{manifest.dictionaries[0].name}</span>}
          <nav aria-label={`Views${name && `, ${name}`}`}>
            {TABS.map(([view, text]) => (
              <a key={view} href={href({ dictionary, view, ids: [], options: {} })} aria-current={shownAs === view ? "page" : undefined}>{text}</a>
            ))}
          </nav>
        </div>
        <div class="view"><Fence key={`${dictionary}/${route.view}/${route.ids}`}><View /></Fence></div>
      </section>
    </PaneContext.Provider>
  );
}

function Theme() {
  const [theme, set] = useState(remembered());
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("theme", theme); } catch { /* a page from a disk may have no storage */ }
  }, [theme]);
  const next = { auto: "light", light: "dark", dark: "auto" }[theme]!;
  return <button type="button" onClick={() => set(next)} aria-label={`Colours: ${theme}; change to ${next}`}>{{ auto: "Auto", light: "Light", dark: "Dark" }[theme]}</button>;
}

function remembered(): string {
  try {
    const theme = localStorage.getItem("theme") ?? "auto";
    return ["auto", "light", "dark"].includes(theme) ? theme : "auto";
  } catch {
    return "auto";
  }
}

/** A single card, for notebooks. */
function Single({ card }: { card: Embedded }) {
  const facts = card.manifest.dictionaries[card.dictionary], { number } = card;
  const ids = card.kind === "pair" ? [Math.floor(number / facts.latents), number % facts.latents] : [number];
  const begin = { dictionary: card.dictionary, view: card.kind, ids, options: card.options ?? {} };
  const [route, go] = useState<Route>(begin);
  const View = VIEWS[route.view];
  const pane: Pane = { source: embeddedSource(card), manifest: card.manifest, route, go, href: () => "#" };
  return <PaneContext.Provider value={pane}><div class="pane"><div class="view single"><View /></div></div></PaneContext.Provider>;
}

const embedded = document.getElementById("embedded")?.textContent;
const root = document.getElementById("app")!;
root.replaceChildren();
if (embedded) {
  render(<Single card={JSON.parse(embedded)} />, root);
} else {
  const kind = document.querySelector<HTMLMetaElement>('meta[name="source"]')!.content;
  const manifest = JSON.parse(document.getElementById("manifest")!.textContent!);
  render(<App source={kind === "server" ? serverSource() : fileSource(manifest)} manifest={manifest} />, root);
}
