// Reads what src/crossproof/explorer/columns.py wrote.

export type Column =
  | { k: Record<string, Column> }
  | { l: number | number[]; of: Column }
  | { c: unknown }
  | { w: number[] }
  | { v: unknown[] };

/** The n values of a column. */
export function values(column: Column, n: number, words: string[]): unknown[] {
  if ("c" in column) return Array(n).fill(column.c);
  if ("v" in column) return column.v;
  if ("w" in column) return column.w.map((at) => words[at]);
  if ("k" in column) {
    const parts = Object.entries(column.k).map(([key, each]) => [key, values(each, n, words)] as const);
    return Array.from({ length: n }, (_, at) => Object.fromEntries(parts.map(([key, each]) => [key, each[at]])));
  }
  const lengths = typeof column.l === "number" ? Array<number>(n).fill(column.l) : column.l;
  const inside = values(column.of, lengths.reduce((a, b) => a + b, 0), words);
  let start = 0;
  return lengths.map((length) => inside.slice(start, start += length));
}

/** Bytes of which every letter holds seven bits. */
export function bytes(text: string): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(Math.floor(text.length * 7 / 8));
  let held = 0, bits = 0, at = 0;
  for (let letter = 0; letter < text.length; letter++) {
    held = (held << 7) | text.charCodeAt(letter);
    bits += 7;
    if (bits >= 8) {
      bits -= 8;
      found[at++] = (held >> bits) & 255;
      held &= (1 << bits) - 1;
    }
  }
  return found;
}
