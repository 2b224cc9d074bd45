// Where documents come from: a server, files beside the page, or the page itself.
import { type Column, bytes, values } from "./columns";
import type {
  Ablation, Cell, Manifest, Question, Rows, Sentence, TokenNeurons,
} from "./types";

export type Table = "latents" | "pairs";
export type Kind = "latent" | "pair" | "neuron" | "map";

export interface Source {
  page<T>(dictionary: number, kind: Kind, number: number): Promise<T>;
  rows(dictionary: number, table: Table, question: Question): Promise<Rows>;
  /** What only a server with a language model can do. */
  live: Live | null;
}

export interface Live {
  sentence(dictionary: number, text: string): Promise<Sentence>;
  token(dictionary: number, text: string, at: number): Promise<TokenNeurons>;
  without(dictionary: number, text: string, at: number, off: number[]): Promise<Ablation>;
}

/** Remembers the last answers. */
function remembering<T>(ask: (key: string) => Promise<T>, most: number): (key: string) => Promise<T> {
  const known = new Map<string, Promise<T>>();
  return (key) => {
    const found = known.get(key) ?? ask(key);
    known.delete(key);
    known.set(key, found);
    found.catch(() => known.delete(key));
    if (known.size > most) known.delete(known.keys().next().value!);
    return found;
  };
}

async function asked<T>(path: string, body?: unknown): Promise<T> {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  let answer: Response;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: is `crossproof explore` still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? `The server answered ${answer.status}.`);
  return content as T;
}

export function serverSource(): Source {
  const get = remembering((path: string) => asked<unknown>(path), 200);
  return {
    page: <T>(d: number, kind: Kind, n: number) => get(`api/${d}/${kind}/${n}`) as Promise<T>,
    rows: (d, table, question) => get(`api/${d}/rows/${table}?${query(question)}`) as Promise<Rows>,
    live: {
      sentence: (d, text) => asked(`api/${d}/sentence`, { text }),
      token: (d, text, at) => asked(`api/${d}/token`, { text, at }),
      without: (d, text, at, off) => asked(`api/${d}/without`, { text, at, off }),
    },
  };
}

function query(question: Question): string {
  const words = new URLSearchParams();
  if (question.text) words.set("text", question.text);
  words.set("sort", question.sort);
  if (!question.descending) words.set("ascending", "1");
  for (const [name, limit] of Object.entries(question.least)) words.set(`least.${name}`, `${limit}`);
  for (const [name, limit] of Object.entries(question.most)) words.set(`most.${name}`, `${limit}`);
  words.set("first", `${question.first}`);
  words.set("rows", `${question.rows}`);
  return words.toString();
}

type Arrived = (name: string, content: string) => void;

/** Files beside the page, as scripts: pages opened from a disk may not fetch. */
export function fileSource({ chunk, dictionaries }: Manifest & { chunk: number }): Source {
  const waiting = new Map<string, (content: string) => void>();
  (globalThis as unknown as { explorerData: Arrived }).explorerData = (name, content) => {
    waiting.get(name)?.(content);
    waiting.delete(name);
  };
  const load = remembering((name: string) => new Promise<unknown>((done, failed) => {
    const script = document.createElement("script");
    waiting.set(name, (content) => unpacked(content).then(done, failed));
    script.src = `data/${name}.js`;
    script.onload = () => script.remove();
    script.onerror = () => failed(new Error(`The file data/${name}.js is missing.`));
    document.head.append(script);
  }), 24);
  const tables = new Map<string, Promise<Rows>>();
  const whole = (d: number, table: Table) => {
    const name = `${d}/${table}`, found = tables.get(name) ?? Promise.all([load(name), words(d)]).then(([given, known]) => {
      const { total, columns, rows } = given as { total: number; columns: string[]; rows: Column };
      const listed = values(rows, total, known) as Record<string, Cell>[];
      return { total, columns, rows: listed.map((row) => columns.map((column) => row[column])) };
    });
    tables.set(name, found);
    found.catch(() => tables.delete(name));
    return found;
  };
  const words = (d: number) => load(`${d}/words`) as Promise<string[]>;
  return {
    live: null,
    page: async <T>(d: number, kind: Kind, n: number) => {
      const missing = new Error(`There is no page of this ${kind} here.`);
      const { latents, neurons } = dictionaries[d];
      const many = { latent: latents, neuron: Object.values(neurons).reduce((a, b) => a + b, 0), pair: Infinity, map: 1 }[kind];
      if (!(n < many)) throw new Error(`There is no ${kind} ${n} in “${dictionaries[d].name}”: it has 0 to ${many - 1}.`);
      const name = kind === "pair"
        ? (await load(`${d}/pair-index`) as Record<string, number>)[n]
        : Math.floor(n / chunk);
      if (name === undefined) throw missing;
      const [found, known] = await Promise.all([load(`${d}/${kind}-${name}`), words(d)]);
      const { numbers, pages } = found as { numbers: number[]; pages: Column };
      const at = numbers.indexOf(n);
      if (at < 0) throw missing;
      return values(pages, numbers.length, known)[at] as T;
    },
    rows: async (d, table, question) => {
      const needsText = question.text.trim() !== "" && table === "latents";
      const texts = needsText ? await load(`${d}/texts`) as string[] : null;
      return answered(await whole(d, table), texts, question);
    },
  };
}

async function unpacked(content: string): Promise<unknown> {
  const stream = new Blob([bytes(content)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** The rows that a question asks for, of a whole table. */
export function answered(whole: Rows, texts: string[] | null, question: Question): Rows {
  const at = (name: string) => whole.columns.indexOf(name);
  const words = question.text.trim().toLowerCase();
  const limits = [
    ...Object.entries(question.least).map(([name, least]) => [at(name), least, Infinity] as const),
    ...Object.entries(question.most).map(([name, most]) => [at(name), -Infinity, most] as const),
  ];
  const ids = texts ? [at("latent")] : [at("h"), at("k")];
  const explanation = at("explanation");
  const kept = whole.rows.filter((row, number) => {
    const fits = words === "" || ids.some((column) => `${row[column]}` === words)
      || (texts !== null && (texts[number].toLowerCase().includes(words)
        || `${row[explanation] ?? ""}`.toLowerCase().includes(words)));
    return fits && limits.every(([column, least, most]) => {
      const value = row[column];
      return typeof value === "number" && value >= least && value <= most;
    });
  });
  const column = at(question.sort), sign = question.descending ? -1 : 1;
  kept.sort((a, b) => sign * compared(a[column], b[column], sign));
  const rows = kept.slice(question.first, question.first + question.rows);
  return { total: kept.length, columns: whole.columns, rows };
}

/** Empty cells come last, whichever way. */
function compared(a: Cell, b: Cell, sign: number): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? sign : -sign;
  return a < b ? -1 : a > b ? 1 : 0;
}

export interface Embedded {
  manifest: Manifest;
  dictionary: number;
  kind: Kind | "sentence";
  number: number;
  options?: Record<string, string>;
  page?: unknown;
  sentence?: Sentence;
  token?: TokenNeurons;
  without?: Ablation;
}

/** One page inside a notebook. */
export function embeddedSource(card: Embedded): Source {
  const none = () => Promise.reject(new Error("Only this card is here: open the explorer for more."));
  const given = <T>(answer: T | undefined) => (answer === undefined ? none() : Promise.resolve(answer));
  return {
    page: <T>(_: number, kind: Kind, n: number) =>
      given(kind === card.kind && n === card.number ? card.page as T : undefined),
    rows: none,
    live: {
      sentence: () => given(card.sentence),
      token: (_, __, at) => given(at === card.number ? card.token : undefined),
      without: (_, __, at, off) => given(at === card.number && off.length === 0 ? card.without : undefined),
    },
  };
}
