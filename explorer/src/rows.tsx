// Latents and pairs as tables of any length: only the rows in sight are asked for and drawn.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { count, number, percent, shown } from "./format";
import { LatentLink, PairLink, table, useLoaded, usePane } from "./parts";
import type { Table } from "./source";
import type { Cell, Question, Rows } from "./types";

interface Column {
  name: string;
  label: string;
  note?: string;
  format?: (value: number) => string;
  /** Left out on narrow screens, the widest first. */
  rank?: 1 | 2 | 3;
}

const LATENT_COLUMNS: Column[] = [
  { name: "frequency", label: "active at", note: "Share of tokens at which it is active", format: percent },
  { name: "mean", label: "mean", note: "Mean activation where it is active", rank: 2 },
  { name: "largest", label: "largest", rank: 3 },
  { name: "interaction", label: "I a token", note: "Interaction with all other latents, mean over the tokens at which pairs are measured" },
  { name: "strongest", label: "strongest pair", note: "I a token with its strongest partner", rank: 2 },
  { name: "owned", label: "owns", note: "Share of (token, neuron) pairs at which it is dominant", format: percent, rank: 1 },
  { name: "cluster", label: "cluster", format: (value) => `${value}`, rank: 3 },
];

const RELATIVE_NORM: Column = { name: "relative_norm", label: "rel. norm", note: "Of two models: 0 is the first’s alone, 1 the second’s", rank: 3 };

const pairColumns = (second: string): Column[] => [
  { name: "per_token", label: "I a token", note: "Both directions, all blocks, mean over the tokens at which pairs are measured" },
  { name: "coactive", label: "both active", note: "Tokens at which both are active", format: count, rank: 1 },
  { name: "i", label: "I", note: "Mean over tokens with both active", rank: 1 },
  { name: "second", label: second, note: "Mean over tokens with both active", rank: 2 },
  { name: "q", label: "Q", note: "Mean over tokens with both active", rank: 3 },
  { name: "difference", label: "2nd diff.", note: "True non-additivity, mean over tokens with both active" },
  { name: "block", label: "block", format: (value) => `${value}`, rank: 2 },
];

const HEIGHT = { latents: 62, pairs: 40 }, CHUNK = 100;

export function LatentRows() {
  const { manifest, route } = usePane(), { joint } = manifest.dictionaries[route.dictionary];
  const columns = joint ? LATENT_COLUMNS.map((each) => (each.name === "largest" ? RELATIVE_NORM : each)) : LATENT_COLUMNS;
  return <RowsPage table="latents" columns={columns} sort="interaction" />;
}

export function PairRows() {
  const { manifest, route } = usePane();
  const second = manifest.dictionaries[route.dictionary].gated ? "AND" : "J";
  return <RowsPage table="pairs" columns={pairColumns(second)} sort="per_token" />;
}

function RowsPage({ table: of, columns, sort: usual }: { table: Table; columns: Column[]; sort: string }) {
  const pane = usePane(), { route } = pane, { dictionary } = route;
  const options = route.options, sort = options.sort ?? usual, descending = options.ascending !== "1";
  const least: Record<string, number> = {}, most: Record<string, number> = {};
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("least.")) least[name.slice(6)] = Number(value);
    if (name.startsWith("most.")) most[name.slice(5)] = Number(value);
  }
  const question = { text: options.text ?? "", sort, descending, least, most };
  const set = (changed: Record<string, string>) =>
    pane.go({ ...route, options: { ...options, ...changed } }, true);
  const first = useLoaded(
    () => pane.source.rows(dictionary, of, { ...question, first: 0, rows: CHUNK }), [dictionary, of, question],
  );
  const facts = pane.manifest.dictionaries[dictionary];
  return (
    <>
      <div class="title"><h1>{of === "latents" ? "Latents" : "Pairs"}</h1>
        <p class="quiet" role="status">{first.value ? `${count(first.value.total)} of ${count(of === "latents" ? facts.latents : facts.pairs)}` : "…"}</p>
      </div>
      <Search key={dictionary} of={of} text={question.text} set={(text) => set({ text })} />
      <Filters columns={columns} options={options} set={set} />
      {first.error && <p class="error" role="alert">{first.error}</p>}
      {first.value && <Virtual key={JSON.stringify([dictionary, question])} of={of} columns={columns} question={question}
        first={first.value} sort={(name) => set({ sort: name, ascending: name === sort && descending ? "1" : "" })} />}
    </>
  );
}

function Search({ of, text, set }: { of: Table; text: string; set(text: string): void }) {
  const timer = useRef(0), [value, change] = useState(text);
  const typed = (next: string) => {
    change(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set(next), 250) as unknown as number;
  };
  const label = of === "latents" ? "Search contexts, explanations, numbers" : "Pairs of latent number";
  return (
    <form class="search" role="search" onSubmit={(event) => { event.preventDefault(); set(value); }}>
      <label><span class="sr">{label}</span>
        <input type="search" value={value} placeholder={label} dir="auto" maxLength={200}
          onInput={(event) => typed(event.currentTarget.value)} /></label>
    </form>
  );
}

function Filters({ columns, options, set }: { columns: Column[]; options: Record<string, string>; set(changed: Record<string, string>): void }) {
  const given = Object.keys(options).filter((name) => /^(least|most)\./.test(name) && options[name] !== "").length;
  return (
    <details class="filters" open={given > 0}>
      <summary>Limits{given ? ` (${given})` : ""}</summary>
      <div>
        {columns.map((column) => (
          <fieldset key={column.name}>
            <legend>{column.label}</legend>
            {(["least", "most"] as const).map((side) => (
              <label key={side}>
                <span class="sr">{column.label}, at </span>{side}
                <input type="number" step="any" value={options[`${side}.${column.name}`] ?? ""}
                  onChange={(event) => set({ [`${side}.${column.name}`]: event.currentTarget.value })} />
              </label>
            ))}
          </fieldset>
        ))}
      </div>
    </details>
  );
}

interface VirtualProps {
  of: Table;
  columns: Column[];
  question: Omit<Question, "first" | "rows">;
  first: Rows;
  sort(name: string): void;
}

function Virtual({ of, columns, question, first, sort }: VirtualProps) {
  const pane = usePane(), frame = useRef<HTMLDivElement>(null), height = HEIGHT[of];
  const [top, setTop] = useState(0), [room, setRoom] = useState(700);
  const [chunks, setChunks] = useState<Record<number, Cell[][]>>({ 0: first.rows });
  const asking = useRef(new Set([0]));
  const at = (name: string) => first.columns.indexOf(name);
  const from = Math.max(0, Math.floor(top / height) - 6);
  const to = Math.min(first.total, Math.ceil((top + room) / height) + 6);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setRoom(entry.contentRect.height));
    observer.observe(frame.current!);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    for (let chunk = Math.floor(from / CHUNK); chunk * CHUNK < to; chunk++) {
      if (asking.current.has(chunk)) continue;
      asking.current.add(chunk);
      pane.source.rows(pane.route.dictionary, of, { ...question, first: chunk * CHUNK, rows: CHUNK }).then(
        (answer) => setChunks((known) => ({ ...known, [chunk]: answer.rows })),
        () => asking.current.delete(chunk),
      );
    }
  }, [from, to]);
  const row = (number: number) => chunks[Math.floor(number / CHUNK)]?.[number % CHUNK];
  const lead = of === "latents" ? ["latent", "latent", "Contexts"] : ["h", "pair", ""];
  const headers = [...columns];
  const copied = () => {
    const known = Object.keys(chunks).map(Number).sort((a, b) => a - b).flatMap((each) => chunks[each]);
    return table(first.columns, known.slice(0, 500), "CSV");
  };
  const moved = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const links = [...frame.current!.querySelectorAll<HTMLAnchorElement>(".lead a")];
    const focused = links.indexOf(document.activeElement as HTMLAnchorElement);
    if (!step || focused < 0) return;
    event.preventDefault();
    links[focused + step]?.focus();
  };
  return (
    <div class={`rows ${of}`}>
      <div class="tools"><button type="button" class="copy" aria-label="Copy the rows that were seen as CSV"
        onClick={() => navigator.clipboard?.writeText(copied())}>CSV</button></div>
      <div class="frame" ref={frame} onScroll={(event) => setTop(event.currentTarget.scrollTop)} onKeyDown={moved}
        role="table" aria-rowcount={first.total + 1} aria-label={of === "latents" ? "Latents" : "Pairs"} tabIndex={0}>
        <div class="head line" role="row" aria-rowindex={1}>
          <span role="columnheader" class="lead" aria-sort={sorted(question, lead[0])}>
            <button type="button" onClick={() => sort(lead[0])}>{lead[1]}{arrow(question, lead[0])}</button>
          </span>
          {of === "latents" && <span role="columnheader" class="words" aria-sort={sorted(question, "label")}>
            <button type="button" onClick={() => sort("label")}>{lead[2]}{arrow(question, "label")}</button></span>}
          {headers.map((column) => (
            <span key={column.name} role="columnheader" class={`n rank${column.rank ?? 0}`} aria-sort={sorted(question, column.name)}>
              <button type="button" title={column.note} onClick={() => sort(column.name)}>{column.label}{arrow(question, column.name)}</button>
            </span>
          ))}
        </div>
        {first.total === 0 && <p class="quiet empty">Nothing fits: fewer words, wider limits?</p>}
        <div class="space" role="rowgroup" style={{ height: `${first.total * height}px` }}>
          {Array.from({ length: Math.max(0, to - from) }, (_, index) => {
            const number_ = from + index, cells = row(number_);
            return (
              <div key={number_} class="line" role="row" aria-rowindex={number_ + 2} style={{ top: `${number_ * height}px`, height: `${height}px` }}>
                {cells ? <Line of={of} cells={cells} at={at} columns={columns} /> : <span role="cell" class="quiet">…</span>}
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

function sorted(question: { sort: string; descending: boolean }, name: string) {
  return question.sort !== name ? "none" : question.descending ? "descending" : "ascending";
}

function arrow(question: { sort: string; descending: boolean }, name: string): string {
  return question.sort !== name ? "" : question.descending ? " ↓" : " ↑";
}

function Line({ of, cells, at, columns }: { of: Table; cells: Cell[]; at(name: string): number; columns: Column[] }) {
  const numbers = columns.map((column) => {
    const value = cells[at(column.name)];
    const text = typeof value === "number" ? (column.format ?? number)(value) : "–";
    return <span key={column.name} role="cell" class={`n rank${column.rank ?? 0}`}>{text}</span>;
  });
  if (of === "pairs") {
    const [h, k] = [cells[at("h")] as number, cells[at("k")] as number];
    const page = cells[at("described")] === true;
    return (
      <>
        <span role="cell" class="lead">
          {page ? <PairLink ids={[h, k]}>{h} · {k}</PairLink> : <><LatentLink id={h} /> · <LatentLink id={k} /></>}
        </span>
        {numbers}
      </>
    );
  }
  const id = cells[at("latent")] as number;
  return (
    <>
      <span role="cell" class="lead"><LatentLink id={id} /></span>
      <span role="cell" class="words">
        <span class="about" dir="auto">{label(cells[at("explanation")] ?? cells[at("label")])}</span>
        <Snippet text={cells[at("snippet")] as string | null} />
      </span>
      {numbers}
    </>
  );
}

const label = (value: Cell): ComponentChildren => shown(`${value ?? ""}`).replace(/^·$/, "–");

function Snippet({ text }: { text: string | null }) {
  if (!text) return <span class="quiet">never active</span>;
  const [before, peak, after] = JSON.parse(text) as string[];
  const word = peak.replace(/^ +/, "");
  return (
    <span class="snippet" dir="auto">
      {before === "" ? "" : shown(before)}{peak.slice(0, peak.length - word.length)}<mark>{shown(word)}</mark>{after === "" ? "" : shown(after)}
    </span>
  );
}
