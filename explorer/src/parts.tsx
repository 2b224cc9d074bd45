// What several pages share: links, figures, contexts, cards with buttons to copy.
import type { ComponentChildren } from "preact";
import { createContext } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";
import { number, shown } from "./format";
import { type Route, written } from "./route";
import type { Source } from "./source";
import type { Context, Manifest } from "./types";

export interface Pane {
  source: Source;
  manifest: Manifest;
  route: Route;
  go(route: Route, replace?: boolean): void;
  href(route: Route): string;
}

export const PaneContext = createContext<Pane>(null as unknown as Pane);
export const usePane = () => useContext(PaneContext);

export type Loaded<T> = { value?: T; error?: string };

/** What a promise gives; the earlier value stays until there is a new one. */
export function useLoaded<T>(ask: () => Promise<T>, keys: unknown[]): Loaded<T> {
  const [state, set] = useState<Loaded<T> & { keys?: string }>({});
  const key = JSON.stringify(keys);
  useEffect(() => {
    let current = true;
    ask().then(
      (value) => current && set({ value, keys: key }),
      (error: Error) => current && set({ error: error.message, keys: key }),
    );
    return () => { current = false; };
  }, [key]);
  return state;
}

export function Waiting({ of }: { of: Loaded<unknown> }) {
  return of.error
    ? <p class="error" role="alert">{of.error}</p>
    : <p class="quiet" role="status">Loading …</p>;
}

type To = { view: Route["view"]; ids?: number[]; options?: Record<string, string>; dictionary?: number };

export function Link({ to, children, ...rest }: { to: To; children: ComponentChildren; class?: string; "aria-label"?: string }) {
  const pane = usePane();
  const route = { dictionary: pane.route.dictionary, ids: [], options: {}, ...to };
  return <a href={pane.href(route)} {...rest}>{children}</a>;
}

export function LatentLink({ id, children }: { id: number; children?: ComponentChildren }) {
  return <Link to={{ view: "latent", ids: [id] }} class="id">{children ?? id}</Link>;
}

export function PairLink({ ids, children }: { ids: number[]; children: ComponentChildren }) {
  const [h, k] = [...ids].sort((a, b) => a - b);
  return <Link to={{ view: "pair", ids: [h, k] }}>{children}</Link>;
}

export function NeuronLink({ neuron }: { neuron: { block: number; neuron: number; number?: number } }) {
  const { manifest, route } = usePane();
  const facts = manifest.dictionaries[route.dictionary];
  let start = 0;
  for (const block of Object.keys(facts.neurons).map(Number).sort((a, b) => a - b)) {
    if (block === neuron.block) break;
    start += facts.neurons[block];
  }
  const at = neuron.number ?? start + neuron.neuron;
  return <Link to={{ view: "neuron", ids: [at] }} class="id">{neuron.block}.{neuron.neuron}</Link>;
}

export function Figures({ items }: { items: [string, ComponentChildren, string?][] }) {
  return (
    <dl class="figures">
      {items.map(([label, value, note]) => (
        <div key={label} title={note}><dt>{label}</dt><dd>{value}</dd></div>
      ))}
    </dl>
  );
}

interface CardProps {
  title: string;
  note?: ComponentChildren;
  children: ComponentChildren;
  /** What "copy" gives, by kind. */
  copy?: Record<string, () => string>;
  class?: string;
  level?: 2 | 3;
}

export function Card({ title, note, children, copy, level = 2, ...rest }: CardProps) {
  const body = useRef<HTMLElement>(null);
  const Title = `h${level}` as "h2";
  const kinds = { ...copy };
  const charts = () => [...body.current!.querySelectorAll<SVGElement>("svg.chart")];
  const [drawn, setDrawn] = useState(false);
  useEffect(() => {
    const look = () => setDrawn(charts().length > 0);
    const observer = new MutationObserver(look); // charts are drawn when their width is known
    observer.observe(body.current!, { childList: true, subtree: true });
    look();
    return () => observer.disconnect();
  }, []);
  if (drawn) kinds.SVG = () => svgText(charts());
  return (
    <section ref={body} class={`card ${rest.class ?? ""}`} aria-label={title}>
      <header>
        <Title>{title}</Title>
        {Object.entries(kinds).map(([kind, text]) => <Copy key={kind} kind={kind} text={text} of={title} />)}
      </header>
      {note && <p class="quiet note">{note}</p>}
      {children}
    </section>
  );
}

function Copy({ kind, text, of }: { kind: string; text: () => string; of: string }) {
  const [done, set] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      set("copied");
    } catch {
      set(kept(text()) ? "copied" : "not allowed");
    }
    setTimeout(() => set(""), 1500);
  };
  return (
    <button type="button" class="copy" onClick={copy} aria-label={`Copy ${of} as ${kind}`}>
      <span aria-live="polite">{done || kind}</span>
    </button>
  );
}

/** Copies where the browser lends no clipboard: pages opened from a disk. */
function kept(text: string): boolean {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family", "text-anchor", "opacity"];

/** Charts below each other in one picture that needs no style sheet. */
function svgText(charts: SVGElement[]): string {
  let top = 0, width = 0;
  const copies = charts.map((chart) => {
    const copy = chart.cloneNode(true) as SVGElement;
    const [from, to] = [chart, copy].map((each) => [...each.querySelectorAll<SVGElement>("*")]);
    from.forEach((element, at) => {
      const computed = getComputedStyle(element);
      to[at].removeAttribute("class");
      to[at].setAttribute("style", STYLES.map((name) => `${name}:${computed.getPropertyValue(name)}`).join(";"));
    });
    copy.setAttribute("y", `${top}`);
    top += Number(chart.getAttribute("height"));
    width = Math.max(width, Number(chart.getAttribute("width")));
    return copy.outerHTML;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${top}">${copies.join("")}</svg>`;
}

export function table(columns: string[], rows: (string | number | boolean | null)[][], kind: "CSV" | "Markdown"): string {
  if (kind === "CSV") {
    const cell = (value: unknown) => {
      const text = `${value ?? ""}`;
      const safe = /^[=+@]|^-\D/.test(text) ? `'${text}` : text;
      return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n");
  }
  const cell = (value: unknown) => `${value ?? ""}`.replaceAll("|", "\\|").replaceAll("\n", " ");
  const line = (cells: unknown[]) => `| ${cells.map(cell).join(" | ")} |`;
  return [line(columns), line(columns.map(() => "---")), ...rows.map(line)].join("\n");
}

/** One context: every token with its strength behind it; two latents lie above and below. */
export function Excerpt({ context, scale, paths = [0] }: { context: Context; scale: number[]; paths?: number[] }) {
  const strength = (path: number, at: number) =>
    Math.min(1, Math.abs(context.values[path]?.[at] ?? 0) / (scale[path] || 1));
  return (
    <p class="excerpt" dir="auto">
      {context.tokens.map((token, at) => {
        const [main, first, second] = paths.map((path) => strength(path, at));
        const word = token.replace(/^ +/, "");
        const space = at ? token.slice(0, token.length - word.length) : "";
        const style = { "--a": main.toFixed(2), "--b": (first ?? 0).toFixed(2), "--c": (second ?? 0).toFixed(2) };
        const told = paths.map((path) => number(context.values[path]?.[at])).join(" · ");
        const hot = main > 0 || (first ?? 0) > 0 || (second ?? 0) > 0;
        const visible = word === "" && !hot ? "" : shown(word);
        return [
          space,
          <span key={at} class={`${hot ? "hot" : ""} ${at === context.peak ? "peak" : ""} ${paths.length > 1 ? "three" : ""}`}
            style={hot ? style as unknown as string : undefined} title={hot ? told : undefined}>{visible}</span>,
        ];
      })}
    </p>
  );
}

export function markdown(context: Context): string {
  return context.tokens.map((token, at) => (at === context.peak ? ` **${shown(token.trim())}**` : shown(token))).join("");
}

export function largest(contexts: Context[], path = 0): number {
  return Math.max(0, ...contexts.map((each) => Math.max(0, ...(each.values[path] ?? []).map(Math.abs))));
}

export const hashOf = written;
