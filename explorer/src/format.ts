// Numbers and tokens as people read them.

/** Three significant digits, as the tables of the package print them. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3
    ? value.toExponential(2).replace(/e([+-])(\d+)/, (_, s, e) => `e${s === "-" ? "−" : ""}${e}`)
    : size >= 100 ? value.toFixed(size >= 1000 ? 0 : 1) : value.toPrecision(3);
  return text.replace(/^-/, "−");
}

export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const share = value * 100;
  return `${share !== 0 && Math.abs(share) < 0.1 ? share.toPrecision(2) : share.toFixed(share < 10 ? 2 : 1)}%`;
}

export function count(value: number): string {
  return value.toLocaleString("en-GB");
}

const SPELT: Record<string, string> = { "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽" };

/** Letters that cannot be seen, or would change what stands around them, are spelt. */
export function shown(token: string): string {
  const text = token.replace(
    /[\n\r\t\u00a0]|[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g,
    (letter) => SPELT[letter] ?? `\\u${letter.codePointAt(0)!.toString(16).padStart(4, "0")}`,
  );
  return text === "" ? "·" : text;
}

export function plural(many: number, one: string): string {
  return `${count(many)} ${one}${many === 1 ? "" : "s"}`;
}
